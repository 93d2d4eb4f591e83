"""Looking for clips and captions with a trained model."""
