"""The Finsta model: nodes from a host's states, graph transformers on them, and what is compared."""
