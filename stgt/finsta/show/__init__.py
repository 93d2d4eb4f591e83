"""Pictures of a clip's scene graphs: the graph of its text, the graph of its frames, and both together."""
