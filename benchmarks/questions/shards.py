"""14. How many clips a second are read from shards, compared with files and with webdataset's own loader?"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from benchmarks.case import Bench, Case
from benchmarks.clips import write_clip
from benchmarks.rows import Row
from stgt.data.manifest.cache import open_manifest
from stgt.data.pixels import to_pixels
from stgt.data.samples import RetrievalDataset
from stgt.data.shards.pack import pack
from stgt.data.text import Tokenizer
from stgt.data.transforms import eval_transform
from stgt.data.video import read_clip
from stgt.files import scratch_file
from stgt.randomness import SeededItems
from stgt.training.sampler import BatchSampler

SHARDS, FILES, WEBDATASET = "stgt, shards", "stgt, files", "webdataset, shards"
BATCH, FRAMES, SIZE = 8, 4, 224
CAPTION = "a man in a red shirt rides a bike along the street while a dog runs beside him"


def cases(device: str, quick: bool) -> list[Case]:
    sizes = [("clips", 16), ("images", 32)] if quick else [("clips", 256), ("images", 4096)]
    return [Case(name_of(*size), partial(compare, size=size, seconds=1 if quick else 10)) for size in sizes]


def name_of(kind: str, count: int) -> str:
    return f"{count} {kind}, batches of {BATCH} in one process"


def compare(bench: Bench, *, size: tuple[str, int], seconds: int) -> list[Row]:
    """Reads batches in random order, with the same decoder, transform and tokenizer. All files have the same bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotation, contents = write_files(folder, *size, seconds)
        shard_size = max(20_000, contents * size[1] // 4)
        packed, *_ = pack(annotation, folder / "videos", folder / "shards", shard_size=shard_size)
        manifest = open_manifest(packed)
        options = dict(
            frames=FRAMES, transform=eval_transform(SIZE), train=True, tokenizer=Tokenizer.train([CAPTION], 60)
        )
        sources = {
            SHARDS: RetrievalDataset(packed, folder / "shards", **options),
            FILES: RetrievalDataset(annotation, folder / "videos", **options),
        }
        readers = {name: ours(items) for name, items in sources.items()}
        bytes_per_row = {
            SHARDS: Path(manifest.file).stat().st_size / size[1],
            FILES: annotation.stat().st_size / size[1],
        }
        missing = []
        if importlib.util.find_spec("webdataset") is None:
            missing.append(Row(WEBDATASET, "uint8", {}, missing="webdataset is not installed"))
        else:
            readers[WEBDATASET] = theirs(sorted((folder / "shards").glob("*.tar")), sources[FILES])
        require_same({name: next(reader) for name, reader in readers.items()})
        timings = bench.measure({name: partial(next, reader) for name, reader in readers.items()}, bench.seconds)
        rows = []
        for name, timing in timings.items():
            details = {"clips/s": BATCH / timing.median}
            if name in bytes_per_row:
                details["bytes of annotation per row"] = bytes_per_row[name]
            rows.append(Row.timed(name, "uint8", {}, timing, details=details))
        return rows + missing


def write_files(folder: Path, kind: str, count: int, seconds: int) -> tuple[Path, int]:
    """Writes `count` copies of a clip or a picture with an annotation; returns it, and the bytes of a file."""
    (folder / "videos").mkdir()
    if kind == "clips":
        source = write_clip(folder / "one.mp4", seconds=seconds, width=320, height=240, gop=50)
    else:
        source = folder / "one.jpg"
        noise = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        Image.fromarray(noise.numpy()).resize((320, 240)).save(source)
    names = [f"{number:06}{source.suffix}" for number in range(count)]
    for name in names:
        shutil.copyfile(source, folder / "videos" / name)
    (folder / "train.json").write_text(json.dumps([{"video": name, "caption": CAPTION} for name in names]))
    return folder / "train.json", source.stat().st_size


def ours(dataset: RetrievalDataset) -> Iterator[list[dict]]:
    """Endless batches in the order of a run."""
    items = SeededItems(dataset, 0)
    for batch in BatchSampler(len(dataset), BATCH, seed=0).batches(0, 10**9):
        yield [items[place] for place in batch]


def theirs(shards: list[Path], dataset: RetrievalDataset) -> Iterator[list[dict]]:
    """Endless batches of webdataset, which reads shards from end to end and shuffles in a buffer of 1000 samples."""
    import webdataset

    def item(sample: dict) -> dict:
        ending = next(key for key in ("mp4", "jpg") if key in sample)
        with scratch_file(sample[ending], f".{ending}") as path:
            clip = read_clip(path, FRAMES)
        return {"video": to_pixels(clip.frames, dataset.transform)} | dataset.said(
            json.loads(sample["json"])["caption"][0]
        )

    stream = webdataset.WebDataset([*map(str, shards)], resampled=True, shardshuffle=False, empty_check=False)
    samples = iter(stream.shuffle(1000).map(item))
    while True:
        yield [*islice(samples, BATCH)]


def require_same(batches: dict[str, list[dict]]) -> None:
    """Raises ValueError unless all readers return the same frames and texts, since all files have the same bytes."""
    expected = batches[FILES][0]
    for name, batch in batches.items():
        if not all(torch.equal(item[key], expected[key]) for item in batch for key in ("video", "input_ids")):
            raise ValueError(f"{name} and {FILES} return different items")
