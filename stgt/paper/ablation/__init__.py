"""The paper's ablations on simulated clips: the studies, the grid of runs, its table and its plot."""
