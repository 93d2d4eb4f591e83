"""The simulated clips of `stgt data shapes`, whose generator knows the truth about every frame and every word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stgt.data.shapes.render import FPS
from stgt.finsta.graphs.graph import (
    ClipGraphs,
    Frame,
    Grounding,
    Relation,
    SeenObject,
    TextEdge,
    TextGraph,
    TextNode,
    VideoGraph,
)
from stgt.finsta.graphs.readers.boxes import part_of_frame
from stgt.structure import field, read_json

SEEN = 0.1
"""The smallest share of an object's area that is seen, below which the object is left out of a frame"""


def read_shapes(folder: Path, videos: Path | None = None) -> Iterator[ClipGraphs]:
    """Every frame of each clip, with the caption's graph. folder: it holds scenes.json.

    Clips with motions in phases (`--scenes phases`) have the true interval of each predicate as well, both as relations
    in the frames and as groundings.
    """
    file = folder / "scenes.json"
    values = read_json(file, dict)
    where = str(file)
    if "clips" not in values or "settings" not in values:
        raise ValueError(f"{where}: there is no 'clips' or no 'settings', expected the file of `stgt data shapes`")
    size = field(field(values, "settings", dict, where), "size", int, where)
    for number, clip in enumerate(field(values, "clips", list, where)):
        try:
            yield _clip(clip, size)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            cause = f"{type(error).__name__}: {error}"
            raise ValueError(f"{where}: clip {number} is not as `stgt data shapes` writes it ({cause})") from None


def _clip(clip: dict, size: int) -> ClipGraphs:
    things, predicates = clip["objects"], clip.get("predicates", [])
    frames = tuple(_frame(f, frame, things, predicates, size) for f, frame in enumerate(clip["frames"]))
    tsg, grounding = _text_graph(clip, len(frames) / FPS)
    seen = {thing.track for frame in frames for thing in frame.objects}
    grounding = tuple(truth for truth in grounding if seen.issuperset(truth.tracks))
    return ClipGraphs(clip["video"], clip["caption"], tsg, VideoGraph(frames), "simulated", grounding)


def _frame(number: int, frame: dict, things: list[dict], predicates: list[dict], size: int) -> Frame:
    seen = {}
    for entry in frame["objects"]:
        thing, box = things[entry["id"]], part_of_frame(entry["box"], size, size)
        if entry["visible"] >= SEEN and box:
            attributes = tuple(thing[key] for key in ("size", "colour") if thing[key])
            seen[entry["id"]] = SeenObject(entry["id"], thing["shape"], 1.0, box, attributes)
    t = number / FPS
    relations = [Relation(*relation) for relation in frame["relations"]]
    relations += [
        Relation(truth["subject"], truth["name"], truth["object"])
        for truth in predicates
        if truth["start"] <= t < truth["end"]
    ]
    there = [r for r in relations if r.subject in seen and (r.object is None or r.object in seen)]
    return Frame(t, tuple(seen.values()), tuple(there))


def _text_graph(clip: dict, duration: float) -> tuple[TextGraph, list[Grounding]]:
    """The graph of a caption and its groundings. A colour and a shape together name one object of a clip."""
    text, things = clip["caption"], clip["objects"]
    drafts: list[tuple[str, tuple[int, int]]] = []
    edges: list[TextEdge] = []

    def node(kind: str, start: int, words: str) -> int:
        drafts.append((kind, (start, start + len(words))))
        return len(drafts) - 1

    objects: dict[int, int] = {}
    for thing in things:
        start = text.index(f"{thing['colour']} {thing['shape']}")
        objects[thing["id"]] = node("object", start + len(thing["colour"]) + 1, thing["shape"])
        attributes = {thing["colour"]: start, thing["size"]: start - len(thing["size"]) - 1}
        for word, place in attributes.items():
            if word:
                edges.append(TextEdge(objects[thing["id"]], node("attribute", place, word), "attribute"))
    grounding = [Grounding(objects[thing["id"]], (thing["id"],), 0.0, duration) for thing in things]
    before: dict[int, int] = {}
    for truth in clip.get("predicates") or _whole_clip(clip):
        start, end = truth["span"]
        predicate = node("predicate", start, text[start:end])
        edges.append(TextEdge(predicate, objects[truth["subject"]], "subject"))
        if truth["object"] is not None:
            edges.append(TextEdge(predicate, objects[truth["object"]], "object"))
        if truth["adverb"]:
            begin = truth["adverb"][0]
            adverb = node("adverb", begin, text[slice(*truth["adverb"])])
            edges.append(TextEdge(predicate, adverb, "adverb"))
        if truth["after"] is not None:
            edges.append(TextEdge(before[truth["after"]], predicate, "order"))
        before[len(before)] = predicate
        if "start" in truth:
            tracks = tuple(i for i in (truth["subject"], truth["object"]) if i is not None)
            grounding.append(Grounding(predicate, tracks, truth["start"], truth["end"]))
    order = sorted(range(len(drafts)), key=lambda number: drafts[number][1])
    place = {number: rank for rank, number in enumerate(order)}
    nodes = tuple(TextNode(place[n], drafts[n][0], text[slice(*drafts[n][1])], drafts[n][1]) for n in order)
    moved = [TextEdge(place[source], place[target], kind) for source, target, kind in edges]
    truths = [Grounding(place[g.node], g.tracks, g.start, g.end) for g in grounding]
    return TextGraph(nodes, tuple(moved)), truths


def _whole_clip(clip: dict) -> Iterator[dict]:
    """The predicates of a clip with one motion per object, whose words follow the object's name."""
    text, things = clip["caption"], clip["objects"]
    for thing in things:
        name = f"{thing['colour']} {thing['shape']}"
        start = text.index(name) + len(name) + 1
        if text.startswith(thing["motion"], start):
            span = [start, start + len(thing["motion"])]
            yield {"subject": thing["id"], "object": None, "span": span, "adverb": None, "after": None}
    if clip["relation"]:
        start = text.index(clip["relation"])
        span = [start, start + len(clip["relation"])]
        yield {"subject": 0, "object": 1, "span": span, "adverb": None, "after": None}
