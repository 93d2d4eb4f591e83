"""Small clips with scene graphs for the tests of Finsta, and the states that a host could have for them."""

import random
import zlib

import torch

from stgt.finsta.batch import GraphBatch
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import (
    ClipGraphs,
    Frame,
    Relation,
    SeenObject,
    TextEdge,
    TextGraph,
    TextNode,
    VideoGraph,
)
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.model.finsta import Finsta

WIDTHS = Widths(text=12, video=10, cross=14)
TINY = dict(width=16, heads=2, layers=2, dropout=0.0, cells=3)
COLOURS, SHAPES = ("red", "green", "blue", "grey"), ("ball", "cube", "cone", "star")
MOTIONS = {"rising": (0.0, -0.04), "falling": (0.0, 0.04), "leaving": (0.04, 0.0), "resting": (0.0, 0.0)}
WORDS, FRAMES = 24, 6


def scene(seed: int, things: int = 2, name: str | None = None) -> ClipGraphs:
    """Things with a colour, each of which moves slowly or quickly, and the first of which is near the second."""
    draw = random.Random(seed)
    kinds = draw.sample([(colour, shape) for colour in COLOURS for shape in SHAPES], things)
    motions = [draw.choice(list(MOTIONS)) for _ in kinds]
    speeds = [draw.choice([("slowly", 0.5), ("quickly", 1.5)]) for _ in kinds]
    starts = [(draw.uniform(0.3, 0.6), draw.uniform(0.3, 0.6)) for _ in kinds]
    words, nodes, edges = [], [], []

    def say(word: str, kind: str | None = None) -> int:
        start = sum(len(one) + 1 for one in words)
        words.append(word)
        if kind is not None:
            nodes.append(TextNode(len(nodes), kind, word, (start, start + len(word))))
        return len(nodes) - 1

    named = []
    for (colour, shape), motion, (speed, _) in zip(kinds, motions, speeds, strict=True):
        attribute, thing = say(colour, "attribute"), say(shape, "object")
        say("is")
        predicate, adverb = say(motion, "predicate"), say(speed, "adverb")
        edges += [TextEdge(thing, attribute, "attribute"), TextEdge(predicate, thing, "subject")]
        edges.append(TextEdge(predicate, adverb, "adverb"))
        named.append((thing, predicate))
    if things > 1:
        near = say("near", "predicate")
        edges += [TextEdge(near, named[0][0], "subject"), TextEdge(near, named[1][0], "object")]
        edges.append(TextEdge(named[0][1], named[1][1], "while"))
    frames = []
    for t in range(FRAMES):
        seen, said = [], []
        for k, ((colour, shape), motion) in enumerate(zip(kinds, motions, strict=True)):
            x, y = (c + t * speeds[k][1] * v for c, v in zip(starts[k], MOTIONS[motion], strict=True))
            seen.append(SeenObject(10 + k, shape, 1.0, (x - 0.1, y - 0.1, x + 0.1, y + 0.1), (colour,)))
            said.append(Relation(10 + k, motion, None))
        if things > 1:
            said.append(Relation(10, "near", 11))
        frames.append(Frame(t * 0.25, tuple(seen), tuple(said)))
    graph = TextGraph(tuple(nodes), tuple(edges))
    return ClipGraphs(name or f"{seed}.mp4", " ".join(words), graph, VideoGraph(tuple(frames)), "simulated")


def offsets_of(clips) -> torch.Tensor:
    """A host's words are those between blanks, cut off after WORDS of them."""
    offsets = torch.zeros(len(clips), WORDS, 2, dtype=torch.int64)
    for own, clip in zip(offsets, clips, strict=True):
        start = 0
        for number, word in enumerate(clip.text.split(" ")[:WORDS]):
            own[number] = torch.tensor([start, start + len(word)])
            start += len(word) + 1
    return offsets


def times_of(clips) -> torch.Tensor:
    return (0.25 * torch.arange(FRAMES, dtype=torch.float64)).expand(len(clips), FRAMES)


def batch_of(clips, config: FinstaConfig) -> GraphBatch:
    return GraphBatch.of(clips, times_of(clips), offsets_of(clips), config)


def word_vectors(texts, width: int = WIDTHS.text, dtype=torch.float32) -> torch.Tensor:
    """A random vector for each text, the same one in every call."""
    vectors = [torch.randn(width, generator=_seeded(text), dtype=torch.float64) for text in texts]
    return torch.stack(vectors).to(dtype) if vectors else torch.zeros(0, width, dtype=dtype)


def host_states(clips, dtype=torch.float32, widths: Widths = WIDTHS) -> HostStates:
    """States that depend on each clip's name alone, with a grid of 2 rows and 3 columns."""
    text, video, cross = [], [], []
    for clip in clips:
        draw = _seeded(clip.video)
        text.append(torch.randn(WORDS, widths.text, generator=draw, dtype=torch.float64))
        video.append(torch.randn(FRAMES, 6, widths.video, generator=draw, dtype=torch.float64))
        cross.append(torch.randn(WORDS, widths.cross or 1, generator=draw, dtype=torch.float64))
    text, video, cross = (torch.stack(part).to(dtype) for part in (text, video, cross))
    return HostStates(text, offsets_of(clips), video, (2, 3), times_of(clips), cross if widths.cross else None)


def tiny_finsta(seed: int = 0, widths: Widths = WIDTHS, **fields) -> Finsta:
    """A model in evaluation mode, in float64."""
    torch.manual_seed(seed)
    return Finsta(FinstaConfig(**TINY | fields), widths).double().eval()


def run(model: Finsta, clips):
    """The model's output for some clips, in its own dtype."""
    dtype = model.word.weight.dtype
    graphs = batch_of(clips, model.config)
    return model(host_states(clips, dtype, model.widths), graphs, word_vectors(graphs.labels, dtype=dtype))


def _seeded(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))
