"""The scene graphs of a clip as plain values: a graph of its text, and a graph of the objects in its frames."""

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
    """A node of a text's graph."""

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
    from a predicate to one that happens after it, and "while" from a predicate to one that happens at the same time.
    """

    source: int
    target: int
    type: str


@dataclass(frozen=True)
class TextGraph:
    """The graph of a clip's text."""

    nodes: tuple[TextNode, ...]
    edges: tuple[TextEdge, ...]


@dataclass(frozen=True)
class SeenObject:
    """An object in one frame."""

    track: int
    """The number of the object, the same in all frames of a clip"""
    label: str
    score: float
    """From 0 to 1; 1 for an object that people annotated"""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 from 0 to 1, as parts of the frame's width and height, with x to the right and y down"""
    attributes: tuple[str, ...] = ()


class Relation(NamedTuple):
    """A relation between two objects of a frame, or a predicate of one object alone."""

    subject: int
    """The track of an object in this frame"""
    predicate: str
    object: int | None
    """Another track, or None if the predicate is about the subject alone, such as "growing\""""
    score: float = 1.0


@dataclass(frozen=True)
class Frame:
    """The graph of one frame."""

    t: float
    """Seconds from the beginning of the clip"""
    objects: tuple[SeenObject, ...]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class VideoGraph:
    """The graphs of a clip's frames."""

    frames: tuple[Frame, ...]
    """In order of time"""


@dataclass(frozen=True)
class Grounding:
    """The truth about a node of the text: the tracks that it is about, and the time during which it is true."""

    node: int
    tracks: tuple[int, ...]
    """The track of an object. For a predicate: the track of its subject and, if it has one, that of its object"""
    start: float
    end: float
    """Seconds; the interval is half-open, [start, end)"""


@dataclass(frozen=True)
class ClipGraphs:
    """The graphs of one clip. `tsg` and `dsg` may be None, but a clip in a file has at least one of them."""

    video: str
    """The name of the file, relative to a folder of videos"""
    text: str
    tsg: TextGraph | None
    """Textual scene graph"""
    dsg: VideoGraph | None
    """Dynamic scene graph, one graph per frame"""
    source: str
    """One of SOURCES: where `dsg` comes from, or `tsg` if there is no `dsg`"""
    grounding: tuple[Grounding, ...] = ()
