"""Post-training: a host learns from scene graphs, and afterwards works without them."""
