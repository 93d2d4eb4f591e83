"""How much faster and smaller the kernels are than what one would use instead."""
