"""Pictures of a trained model: its graph and attention for one clip, and its retrieval results."""
