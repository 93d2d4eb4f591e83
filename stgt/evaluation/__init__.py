"""Evaluation of trained models: retrieval, answers to questions, and the validation during training."""
