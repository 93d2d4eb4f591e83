"""The scene graphs of a clip as plain values: what its text says, and what is seen in its frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KINDS = ("object", "attribute", "predicate", "adverb")
"""The kinds of a node of a text"""
EDGE_TYPES = {
    "subject": ("predicate", ("object", "predicate")),
    "object": ("predicate", ("object", "predicate")),
    "attribute": ("object", ("attribute",)),
    "adverb": ("predicate", ("adverb",)),
    "order": ("predicate", ("predicate",)),
    "while": ("predicate", ("predicate",)),
}
"""{type of an edge: (kind of its source, kinds that its target may have)}"""
SOURCES = ("simulated", "gold", "parser", "detector")
"""Where graphs come from: the simulator, human annotators, a parser of texts, or a detector in videos"""


@dataclass(frozen=True)
class TextNode:
    id: int
    kind: str
    """One of KINDS"""
    text: str
    """The words of the node, in lower case"""
    span: tuple[int, int]
    """The characters [start, end) of the clip's text that the node stands for"""


class TextEdge(NamedTuple):
    """An edge between two nodes of a text, given by their ids.

    A predicate has edges to its subject, its object and its adverbs, and an object to its attributes. "order" leads
    from what happens first to what happens next, "while" from one predicate to another of the same time.
    """

    source: int
    target: int
    type: str


@dataclass(frozen=True)
class TextGraph:
    nodes: tuple[TextNode, ...]
    edges: tuple[TextEdge, ...]


@dataclass(frozen=True)
class SeenObject:
    """An object in one frame."""

    track: int
    """The number of the object, the same in all frames of a clip"""
    label: str
    score: float
    """From 0 to 1; 1 for what people annotated"""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 from 0 to 1, as parts of the frame's width and height, with x to the right and y down"""
    attributes: tuple[str, ...] = ()


class Relation(NamedTuple):
    """What holds between two objects of a frame, or for one alone."""

    subject: int
    """The track of an object in the same frame"""
    predicate: str
    object: int | None
    """Another track, or None if the predicate is about the subject alone, such as "growing\""""
    score: float = 1.0


@dataclass(frozen=True)
class Frame:
    t: float
    """Seconds from the beginning of the clip"""
    objects: tuple[SeenObject, ...]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class VideoGraph:
    frames: tuple[Frame, ...]
    """In the order of time"""


@dataclass(frozen=True)
class Grounding:
    """The truth about a node of the text: which tracks it is about, and when it holds."""

    node: int
    tracks: tuple[int, ...]
    """The track of an object, or the subject's track and, if there is one, the object's track of a predicate"""
    start: float
    end: float
    """Seconds; the interval is half-open, [start, end)"""


@dataclass(frozen=True)
class ClipGraphs:
    """The graphs of one clip. One of `tsg` and `dsg` may be missing."""

    video: str
    """The name of the file, relative to a folder of videos"""
    text: str
    tsg: TextGraph | None
    """Textual scene graph"""
    dsg: VideoGraph | None
    """Dynamic scene graph, one graph per frame"""
    source: str
    """One of SOURCES. It is about `dsg`, and about `tsg` where there is no `dsg`"""
    grounding: tuple[Grounding, ...] = ()
