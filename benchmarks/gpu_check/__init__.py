"""A command that builds the CUDA kernels, tests them on a GPU, and compares them with alternatives and limits."""
