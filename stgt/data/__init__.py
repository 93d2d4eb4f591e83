"""From video files and captions to batches: decoding, transforms, text, data sets, feature caches, simulated clips."""
