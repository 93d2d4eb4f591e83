"""The STGT model: vision tower, graph transformer, Q-Former, losses' inputs."""
