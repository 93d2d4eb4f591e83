"""Files of weights: reading their formats, translating their names, and loading them into our modules."""
