"""The experiments of the paper that are repeated here: its ablations and its Table 6."""
