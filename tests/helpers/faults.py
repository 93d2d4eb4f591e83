"""A program that runs every writing command at tiny sizes in forks, which are killed or find the disk full.

usage: faults.py FOLDER. It prints one JSON object for each trial, with its kind and the files in the folder after it.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from stgt.config import GraphConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.data.annotations import save_captions
from stgt.data.entries import Clip
from stgt.data.samples import VideoDataset
from stgt.data.shapes import render_shapes
from stgt.data.shards.pack import pack
from stgt.data.store import Store
from stgt.data.text import Tokenizer
from stgt.data.transforms import eval_transform
from stgt.data.write_features import write_features
from stgt.figures.page import Picture, write_page
from stgt.figures.results import draw_results
from stgt.finsta.graphs.graph import ClipGraphs, Frame, SeenObject, VideoGraph
from stgt.finsta.graphs.lines import write_graphs
from stgt.models.stgt import STGT
from stgt.weights.load import export_released

TRIALS = 6
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


def model():
    torch.manual_seed(0)
    vision = VisionConfig(tower="vit", image_size=16, patch_size=8, width=8, layers=1, heads=2)
    words = dict(vocab_size=12, bos_token_id=11, max_positions=8, max_text_length=8)
    qformer = QFormerConfig(hidden=8, layers=1, heads=2, intermediate=8, queries=2, embed_dim=4, **words)
    return STGT(ModelConfig(vision, GraphConfig(heads=2, frames=2), qformer))


torch.set_num_threads(1)  # the threads of a pool do not survive a fork
MODEL = model()


def pretrained(out):
    MODEL.save_pretrained(out / "model")


def released(out):
    export_released(MODEL, out / "released.pth")
    export_released(MODEL, out / "released.safetensors")


def annotation(out):
    save_captions([Clip("a.mp4", ("a cat", "the cat"))], out / "train.json")
    Tokenizer.train(["a cat"], 40).save(out / "tokenizer")


def shapes(out):
    render_shapes(out / "shapes", train=1, test=1, size=32, frames=2)


def features(out):
    videos = VideoDataset(["a.png"], out.parent, frames=1, transform=eval_transform(16))
    write_features(out / "cache", videos, lambda frames: frames[:, :, :, :2].flatten(3), tower_hash="ab")


def store(out):
    batches = Store(out / "texts-ab", {"000000": 2, "000001": 1})
    batches.fill(lambda names: ({"features": torch.ones(len(batches.items(name)), 3)} for name in names))


def pictures(out):
    draw_results("a cat", [("a.mp4", 1.0, torch.zeros(2, 8, 8, 3, dtype=torch.uint8))], out / "page" / "search.png")
    write_page(out / "page" / "index.html", "A cat", {}, [Picture(out / "page" / "search.png", "a", "b")])


def graphs(out):
    frames = tuple(Frame(float(t), (SeenObject(0, "cat", 1.0, (0.0, 0.0, 1.0, 1.0)),)) for t in range(3))
    write_graphs(out / "graphs.jsonl", [ClipGraphs("a.mp4", "", None, VideoGraph(frames), "gold")] * 2)


def shards(out):
    annotation = out.parent / "train.json"
    if not annotation.exists():
        save_captions([Clip(str(out.parent / "a.png"), ("a cat",)), Clip("../a.png", ("the cat",))], annotation)
    packed = out / "shards"
    if not (packed / "train.parquet").exists() or (packed / ".unfinished-train").exists():  # it refuses finished ones
        pack(annotation, out, packed, shard_size=1)


COMMANDS = (pretrained, released, annotation, shapes, features, store, pictures, graphs, shards)


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def child(work):
    """Run `work` in a fork, and return its exit status (negative for a signal) and its output."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        os.dup2(writer, 1)
        try:
            work()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
            os._exit(2)
        sys.stdout.flush()
        os._exit(0)
    os.close(writer)
    with open(reader, errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def counted(out, command, deadly=None):
    """Run a command and print its number of changes to the folder, or end by SIGKILL just before the n-th change."""
    count = 0

    def hook(event, args):
        nonlocal count
        opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (opened or event in CHANGES) and str(args[0]).startswith(str(out)):
            count += 1
            if count == deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    command(out)
    print(count)


def without_room(out, command, size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    command(out)


def trials(root, command):
    draw_cat(root / "a.png")
    (root / "whole").mkdir()
    status, said = child(lambda: counted(root / "whole", command))
    yield dict(kind="whole", status=status, said=said, left=contents(root / "whole"))
    changes = int(said.split()[-1])
    for n in sorted({1 + trial * (changes - 1) // (TRIALS - 1) for trial in range(TRIALS)}):
        (out := root / f"killed{n}").mkdir()
        status, _ = child(lambda out=out, n=n: counted(out, command, n))
        left = contents(out)
        again, said = child(lambda out=out: command(out))
        yield dict(kind="killed", status=status, left=left, again=again, said=said, whole=contents(out))
    for size in (0, 100):
        (out := root / f"full{size}").mkdir()
        status, said = child(lambda out=out, size=size: without_room(out, command, size))
        left = contents(out)
        again, _ = child(lambda out=out: command(out))
        yield dict(kind="full", status=status, said=said, left=left, again=again, whole=contents(out), out=str(out))


def main(folder):
    for command in COMMANDS:
        root = Path(folder, command.__name__)
        root.mkdir()
        for trial in trials(root, command):
            print(json.dumps(trial | {"command": command.__name__}), flush=True)


def draw_cat(path):
    from PIL import Image

    Image.new("RGB", (16, 16), "grey").save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
