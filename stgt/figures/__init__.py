"""Pictures of what a trained model sees in a clip, and of what it finds."""
