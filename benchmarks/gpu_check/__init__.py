"""One command that builds the CUDA kernels on a GPU, tests them, and times them against their rivals and the limit."""
