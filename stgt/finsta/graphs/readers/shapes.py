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
from stgt.finsta.graphs.readers.published import in_published_form
from stgt.structure import field, read_json

SEEN = 0.1
"""Share of an object's area that has to be visible; otherwise the object is left out of the frame"""


def read_shapes(folder: Path, videos: Path | None = None) -> Iterator[ClipGraphs]:
    """Every frame of each clip, with the caption's graph. folder: it holds scenes.json.

    Clips with motions in phases (`--kind phases`) have the true interval of each predicate as well, both as relations
    in the frames and as groundings. Raises ValueError that names the file and the clip if a value is missing or wrong.
    """
    file = folder / "scenes.json"
    values = read_json(file, dict)
    where = str(file)
    if "clips" not in values or "settings" not in values:
        raise ValueError(f"{where}: there is no 'clips' or no 'settings', expected the file of `stgt data shapes`")
    size = field(field(values, "settings", dict, where), "size", int, where)
    for number, clip in enumerate(field(values, "clips", list, where)):
        with in_published_form(f"{where}: clip {number}"):
            graphs = _clip(clip, size)
        yield graphs


def _clip(clip: dict, size: int) -> ClipGraphs:
    things, predicates = clip["objects"], clip.get("predicates", [])
    frames = tuple(_frame(f, frame, things, predicates, size) for f, frame in enumerate(clip["frames"]))
    tsg, grounding = _text_graph(clip, len(frames) / FPS)
    seen = {thing.track for frame in frames for thing in frame.objects}
    grounding = tuple(truth for truth in grounding if seen.issuperset(truth.tracks))
    return ClipGraphs(clip["video"], clip["caption"], tsg, VideoGraph(frames), "simulated", grounding)


def _frame(number: int, frame: dict, things: list[dict], predicates: list[dict], size: int) -> Frame:
    t, seen = number / FPS, {}
    for entry in frame["objects"]:
        thing, box = things[entry["id"]], part_of_frame(entry["box"], size, size)
        if entry["visible"] >= SEEN and box:
            attributes = tuple(thing[key] for key in ("size", "colour") if thing[key])
            seen[entry["id"]] = SeenObject(entry["id"], thing["shape"], 1.0, box, attributes)
    timed = {Relation(truth["subject"], truth["name"], truth["object"]): truth for truth in predicates}
    relations = [relation for entry in frame["relations"] if (relation := Relation(*entry)) not in timed]
    relations += [relation for relation, truth in timed.items() if truth["start"] <= t < truth["end"]]
    there = [r for r in relations if r.subject in seen and (r.object is None or r.object in seen)]
    return Frame(t, tuple(seen.values()), tuple(there))


def _text_graph(clip: dict, duration: float) -> tuple[TextGraph, list[Grounding]]:
    """The graph of a caption and its groundings. A colour and a shape together name one object of a clip."""
    text, things = clip["caption"], clip["objects"]
    drafts: list[tuple[str, tuple[int, int]]] = []
    edges: list[TextEdge] = []

    def node(kind: str, start: int, end: int) -> int:
        drafts.append((kind, (start, end)))
        return len(drafts) - 1

    objects: dict[int, int] = {}
    for thing in things:
        start = text.index(f"{thing['colour']} {thing['shape']}")
        end = start + len(thing["colour"]) + 1 + len(thing["shape"])
        objects[thing["id"]] = node("object", end - len(thing["shape"]), end)
        attributes = {thing["colour"]: start, thing["size"]: start - len(thing["size"]) - 1}
        for word, place in attributes.items():
            if word:
                edges.append(TextEdge(objects[thing["id"]], node("attribute", place, place + len(word)), "attribute"))
    grounding = [Grounding(objects[thing["id"]], (thing["id"],), 0.0, duration) for thing in things]
    truths = clip.get("predicates") or list(_whole_clip(clip))
    predicates = [node("predicate", *truth["span"]) for truth in truths]
    for predicate, truth in zip(predicates, truths, strict=True):
        of = truth.get("of")
        edges.append(TextEdge(predicate, objects[truth["subject"]] if of is None else predicates[of], "subject"))
        if truth["object"] is not None:
            edges.append(TextEdge(predicate, objects[truth["object"]], "object"))
        if truth.get("adverb"):
            edges.append(TextEdge(predicate, node("adverb", *truth["adverb"]), "adverb"))
        for key, kind in (("after", "order"), ("at_once", "while")):
            if truth.get(key) is not None:
                edges.append(TextEdge(predicates[truth[key]], predicate, kind))
        if "start" in truth:
            tracks = tuple(i for i in (truth["subject"], truth["object"]) if i is not None)
            grounding.append(Grounding(predicate, tracks, truth["start"], truth["end"]))
    order = sorted(range(len(drafts)), key=lambda number: drafts[number][1])
    place = {number: rank for rank, number in enumerate(order)}
    nodes = tuple(TextNode(place[n], drafts[n][0], text[slice(*drafts[n][1])], drafts[n][1]) for n in order)
    moved = sorted(TextEdge(place[source], place[target], kind) for source, target, kind in edges)
    grounded = [Grounding(place[g.node], g.tracks, g.start, g.end) for g in grounding]
    return TextGraph(nodes, tuple(moved)), grounded


def _whole_clip(clip: dict) -> Iterator[dict]:
    """The predicates of a clip with one motion per object, whose words follow the object's name."""
    text, things = clip["caption"], clip["objects"]
    for thing in things:
        name = f"{thing['colour']} {thing['shape']}"
        start = text.index(name) + len(name) + 1
        if text.startswith(thing["motion"], start):
            span = [start, start + len(thing["motion"])]
            yield {"subject": thing["id"], "object": None, "span": span}
    if clip["relation"]:
        start = text.index(clip["relation"])
        span = [start, start + len(clip["relation"])]
        yield {"subject": 0, "object": 1, "span": span}
