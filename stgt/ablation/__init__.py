"""The paper's ablations on simulated clips: what is varied, the grid of runs, its table and its plot."""
