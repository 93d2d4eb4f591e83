"""Search for clips and captions with a trained model."""
