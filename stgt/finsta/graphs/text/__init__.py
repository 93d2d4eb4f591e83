"""Textual scene graphs: a dependency parser, and rules of our own that turn its trees into graphs."""
