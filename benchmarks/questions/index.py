"""13. How long does an index take to answer a query, and how many bytes does it need for a window?"""

import importlib.util
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.case import Bench, Case
from benchmarks.rows import Row
from stgt.search import packed
from stgt.search.approximate import FEWEST
from stgt.search.index import Index, Moment
from stgt.search.manifest import Film, Manifest, Settings
from stgt.search.packed import DTYPE, Rows

EXACT, FAISS = "stgt, exact", "stgt, candidates of faiss"
PER_FILM = 100
TOP = 10


def cases(device: str, quick: bool) -> list[Case]:
    clip, stgt = (1, 512), (32, 256)
    sizes = [(1_000, *clip), (200, *stgt)] if quick else [(10_000, *clip), (100_000, *clip), (10_000, *stgt)]
    return [Case(name_of(*size), partial(compare, size=size)) for size in sizes]


def name_of(windows: int, queries: int, width: int) -> str:
    return f"{windows:,} windows of {queries} x {width} numbers, the 10 best moments"


def compare(bench: Bench, *, size: tuple[int, int, int]) -> list[Row]:
    """Compares exact search with faiss on clustered vectors, and counts the moments that faiss finds, too."""
    vectors, sentences = clustered(*size)
    with tempfile.TemporaryDirectory() as folder:
        indexes = {EXACT: write(Path(folder) / "exact", vectors, exact_up_to=len(vectors))}
        rows = []
        if importlib.util.find_spec("faiss") is None:
            rows.append(Row(FAISS, "fp16", {}, missing="faiss is not installed"))
        elif size[0] * size[1] < FEWEST:
            rows.append(Row(FAISS, "fp16", {}, missing=f"fewer than {FEWEST:,} vectors are always searched exactly"))
        else:
            indexes[FAISS] = write(Path(folder) / "faiss", vectors, exact_up_to=0)
        expected = [answer(indexes[EXACT], sentence) for sentence in sentences]
        turns = {name: iter(range(10**9)) for name in indexes}

        def ask(name: str) -> list[Moment]:
            return answer(indexes[name], sentences[next(turns[name]) % len(sentences)])

        timings = bench.measure({name: partial(ask, name) for name in indexes}, bench.seconds)
        for name, index in indexes.items():
            found = [answer(index, sentence) for sentence in sentences]
            same = sum(
                len({*map(place, ours)} & {*map(place, best)}) for ours, best in zip(found, expected, strict=True)
            )
            size_on_disk = sum(path.stat().st_size for path in index.path.iterdir())
            details = {"bytes per window": size_on_disk / len(vectors), "recall@10": same / (TOP * len(sentences))}
            rows.append(Row.timed(name, "fp16", {}, timings[name], details=details))
    return rows


def clustered(windows: int, queries: int, width: int) -> tuple[Tensor, Tensor]:
    """Unit vectors float16 (N, Q, E) of windows around 500 scenes, and of sentences, float32 (100, 1, E), near them."""
    draw = torch.Generator().manual_seed(0)
    scenes = F.normalize(torch.randn(500, width, generator=draw), dim=-1)
    near = 0.7 / width**0.5  # the length of the noise is 0.7 of that of a scene's vector
    parts = []
    for part in torch.randint(500, (windows,), generator=draw).split(10_000):
        noise = near * torch.randn(len(part), queries, width, generator=draw)
        parts.append(F.normalize(scenes[part, None] + noise, dim=-1).to(DTYPE))
    noise = near * torch.randn(100, 1, width, generator=draw)
    return torch.cat(parts), F.normalize(scenes[torch.randint(500, (100,), generator=draw), None] + noise, dim=-1)


def write(place: Path, vectors: Tensor, *, exact_up_to: int) -> Index:
    """An index of these vectors, with 100 windows of 8 seconds in each file, which do not overlap."""
    place.mkdir()
    films = []
    for number, part in enumerate(vectors.split(PER_FILM)):
        starts = 8.0 * torch.arange(len(part), dtype=torch.float64)
        rows = Rows(part, torch.stack([starts, starts + 8], dim=1))
        films.append(
            (Film(f"/films/{number:06}.mp4", f"{number:016x}", 0, len(part), rows.sha256()), partial(Rows, *rows))
        )
    encoder = SimpleNamespace(digest="synthetic", encode_windows=None)
    manifest = Manifest(Settings("synthetic", "synthetic", 8.0, 8.0), ["/films"], "", [])
    packed.publish(place, packed.write(place, manifest, films), exact_up_to)
    return Index(place, encoder)


def answer(index: Index, sentence: Tensor) -> list[Moment]:
    return index.nearest(sentence, top=TOP)


def place(moment: Moment) -> tuple[Path, float]:
    return moment.path, moment.start
