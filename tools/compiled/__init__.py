"""Looks at the compiled CUDA kernels and at the launches of their host code, on a machine without a GPU."""
