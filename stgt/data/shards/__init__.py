"""Shards: tar files in WebDataset's form, which hold many videos or images with their captions."""
