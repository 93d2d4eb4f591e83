"""Training: optimizer, processes, checkpoints and the loop."""
