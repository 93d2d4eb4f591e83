"""Measures what Finsta is worth: retrieval against controls, grounding against the truth, and worse graphs."""
