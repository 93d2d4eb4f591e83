"""Reads published annotations as scene graphs."""

from stgt.finsta.graphs.lines import read_graphs, write_graphs
from stgt.finsta.graphs.readers import READERS


def read(name, source, tmp_path, videos=None):
    """The clips that a reader gives, after they were written and read again."""
    write_graphs(tmp_path / "read.jsonl", READERS[name](source, videos))
    return list(read_graphs(tmp_path / "read.jsonl"))
