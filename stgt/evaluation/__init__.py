"""What a trained model can do: retrieval figures, answers, captions, search, pictures."""
