"""Finsta against its controls on simulated clips: the rows, the grid of runs, and the page with the tables."""
