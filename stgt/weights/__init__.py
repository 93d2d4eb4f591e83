"""Files of weights: their formats, their names, and how they come into our modules."""
