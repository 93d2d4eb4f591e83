"""Search: an index of the moments of videos, a page for it, and whole videos and captions ranked by a model."""
