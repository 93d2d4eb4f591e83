"""What a trained model can do: retrieval figures, search, pictures."""
