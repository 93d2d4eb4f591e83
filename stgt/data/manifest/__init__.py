"""Manifests: annotations in Parquet, of any number of rows, whose videos are files or members of tar shards."""
