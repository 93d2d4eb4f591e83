"""Index tensors of batches of scene graphs, made on the CPU, so that the model runs without a loop over nodes."""
