"""Training: the loop, the optimizer, the order of the pairs, and the log."""
