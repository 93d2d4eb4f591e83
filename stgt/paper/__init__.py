"""What repeats the paper: its ablations and its Table 6."""
