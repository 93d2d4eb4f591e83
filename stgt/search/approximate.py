"""Finds candidates among more vectors than can be compared one by one, with IVF-PQ of faiss.

The vectors are grouped around centres, and each one is stored as the product-quantised difference from its centre, in a
byte for 4 of its numbers. A query is compared with the vectors of the nearest groups only. The candidates are then
scored exactly with the vectors of the index, so an answer may be left out, but its score is exact.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from stgt.files import atomic_file
from stgt.integrity import DamagedError

EXACT_UP_TO = 1_000_000
"""Most windows that are compared one by one"""
FEWEST = 10_000
"""Fewer vectors are always compared one by one, because groups cannot be learned from them"""
PART = 100_000
"""Vectors that are converted to float32 at a time"""
RESCORED = 1024
"""Fewest vectors that are scored exactly, since the codes are too short to tell apart those that are near each other"""
PROBES = 16
"""The number of all groups, divided by the number of groups that a query is compared with"""


def build(path: Path, vectors: Tensor) -> None:
    """Group the vectors of all windows, float16 (N, Q, E), and write the result as a file of faiss.

    The same vectors give the same groups. Raises ModuleNotFoundError if faiss is not installed.
    """
    import faiss

    flat = vectors.reshape(-1, vectors.shape[2])
    count, width = flat.shape
    groups = 2 ** max(4, round(math.log2(4 * math.sqrt(count))))
    # "np" leaves out the training for searches by Hamming distance, which takes most of the time.
    kind = f"IVF{groups},PQ{width // 4 if width % 4 == 0 else 1}np"
    index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
    for learned in (index.cp, index.pq.cp):
        learned.min_points_per_centroid = 1  # faiss would print a warning for each part of the vectors
    sample = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: max(FEWEST, 64 * groups)]
    index.train(flat[sample].float().numpy())
    for part in flat.split(PART):
        index.add(part.float().numpy())
    with atomic_file(path) as partial:
        faiss.write_index(index, str(partial))


class Approximate:
    """A file that `build` wrote, memory-mapped."""

    def __init__(self, path: Path, windows: int, queries: int) -> None:
        """windows, queries: the number of windows, and of the vectors of each, Q.

        Raises ModuleNotFoundError if faiss is not installed, and DamagedError if the file cannot be read, or holds
        another number of vectors. Other damage is not noticed: it can hide an answer, whose scores stay exact.
        """
        import faiss

        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError:
            raise DamagedError(f"{path}: the file is damaged") from None
        if self._index.ntotal != windows * queries:
            raise DamagedError(f"{path}: holds {self._index.ntotal} vectors, expected {windows * queries}")
        self._queries = queries
        self._options = faiss.SearchParametersIVF

    def candidates(self, query: Tensor, count: int) -> Tensor:
        """Windows that probably have the highest scores for a query (K, E), in ascending order: int64 (n,).

        There are at least `count` of them, or all.

        More groups are searched as long as there are fewer windows.
        """
        probes = max(8, self._index.nlist // PROBES)
        while True:
            rows = self._nearest(query, count, probes)
            if len(rows) >= count or probes >= self._index.nlist:
                return rows
            probes *= 2

    def _nearest(self, query: Tensor, count: int, probes: int) -> Tensor:
        # All vectors of a window may be near the query.
        wanted = min(self._index.ntotal, max(count * self._queries, RESCORED))
        _, places = self._index.search(query.numpy(), wanted, params=self._options(nprobe=probes))
        rows = torch.from_numpy(places).flatten()
        return (rows[rows >= 0] // self._queries).unique()
