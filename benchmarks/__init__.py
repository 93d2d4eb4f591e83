"""Benchmarks: the time and memory of the kernels, compared with the alternatives."""
