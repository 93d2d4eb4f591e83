"""Scene graphs in files: one JSON object per line, one line per clip. docs/finsta.md describes the format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from stgt.data.lines import read_lines
from stgt.files import atomic_file
from stgt.finsta.graphs.graph import (
    EDGE_TYPES,
    KINDS,
    SOURCES,
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
from stgt.structure import field, parse_json, shown


def read_graphs(path: str | Path) -> Iterator[ClipGraphs]:
    """The graphs of each clip of a file. Raises ValueError that names file, line, key, value and what was expected."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            yield graphs_from(parse_json(line, where, dict), where)


def write_graphs(path: str | Path, clips: Iterable[ClipGraphs]) -> int:
    """Write one line per clip, completely or not at all, and return the number of clips.

    Each clip is checked as `read_graphs` checks it, so that a file that was written can be read. Raises ValueError that
    names the clip if it does not pass the check.
    """
    count = 0
    with atomic_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for count, clip in enumerate(clips, start=1):
            where = f"clip {count} ({shown(clip.video)})"
            line = json.dumps(dataclasses.asdict(clip), ensure_ascii=False, separators=(",", ":"))
            try:
                graphs_from(parse_json(line, where, dict), where)
                file.write(line + "\n")
            except UnicodeEncodeError:
                raise ValueError(f"{where}: it holds a character that UTF-8 cannot write, expected text") from None
    return count


def graphs_from(values: dict, where: str) -> ClipGraphs:
    """The graphs of a clip from a JSON object. Raises ValueError, which begins with `where`, for a wrong value."""
    _only(values, where, "video", "text", "tsg", "dsg", "source", "grounding")
    text = field(values, "text", str, where)
    tsg = _text_graph(values["tsg"], text, f"{where}: tsg") if values.get("tsg") is not None else None
    dsg = _video_graph(values["dsg"], f"{where}: dsg") if values.get("dsg") is not None else None
    if tsg is None and dsg is None:
        raise ValueError(f"{where}: there is neither 'tsg' nor 'dsg', expected at least one of them")
    video = field(values, "video", str, where)
    source = _one_of(values, "source", SOURCES, where)
    nodes = {node.id for node in tsg.nodes} if tsg else set()
    tracks = {thing.track for frame in dsg.frames for thing in frame.objects} if dsg else set()
    entries = field(values, "grounding", list, where) if "grounding" in values else []
    grounding = tuple(_grounding(e, nodes, tracks, f"{where}: grounding[{i}]") for i, e in enumerate(entries))
    return ClipGraphs(video, text, tsg, dsg, source, grounding)


def _text_graph(values: object, text: str, where: str) -> TextGraph:
    _only(values, where, "nodes", "edges")
    nodes: dict[int, TextNode] = {}
    for number, entry in enumerate(field(values, "nodes", list, where)):
        at = f"{where}.nodes[{number}]"
        _only(entry, at, "id", "kind", "text", "span")
        node = TextNode(
            _number(entry, "id", at), _one_of(entry, "kind", KINDS, at), field(entry, "text", str, at),
            _span(entry, len(text), at),
        )  # fmt: skip
        if node.id in nodes:
            raise ValueError(f"{at}: 'id' is {node.id}, expected one that no earlier node has")
        nodes[node.id] = node
    edges = [_edge(entry, nodes, f"{where}.edges[{i}]") for i, entry in enumerate(field(values, "edges", list, where))]
    return TextGraph(tuple(nodes.values()), tuple(edges))


def _span(entry: dict, length: int, where: str) -> tuple[int, int]:
    span = field(entry, "span", list, where)
    if len(span) != 2 or not all(map(_is_whole, span)) or not 0 <= span[0] < span[1] <= length:
        raise ValueError(f"{where}: 'span' is {shown(span)}, expected [start, end] inside the {length} characters")
    return span[0], span[1]


def _edge(entry: object, nodes: dict[int, TextNode], where: str) -> TextEdge:
    if not isinstance(entry, list) or len(entry) != 3:
        raise ValueError(f"{where}: it is {shown(entry)}, expected [source, target, type]")
    source, target, kind = entry
    if not isinstance(kind, str) or kind not in EDGE_TYPES:
        raise ValueError(f"{where}: the type is {shown(kind)}, expected one of {', '.join(EDGE_TYPES)}")
    wanted = {"source": (source, EDGE_TYPES[kind][:1]), "target": (target, EDGE_TYPES[kind][1])}
    for end, (node, kinds) in wanted.items():
        if not _is_whole(node) or node not in nodes:
            raise ValueError(f"{where}: the {end} is {shown(node)}, expected the id of a node")
        if nodes[node].kind not in kinds:
            found = f"the {nodes[node].kind} {shown(nodes[node].text)}"
            raise ValueError(f"{where}: the {end} of {kind!r} is {found}, expected {' or '.join(kinds)}")
    return TextEdge(source, target, kind)


def _video_graph(values: object, where: str) -> VideoGraph:
    _only(values, where, "frames")
    frames: list[Frame] = []
    for number, entry in enumerate(field(values, "frames", list, where)):
        at = f"{where}.frames[{number}]"
        frame = _frame(entry, at)
        if frame.t < 0 or (frames and frame.t <= frames[-1].t):
            before = f"more than {frames[-1].t:g}, the time of the frame before" if frames else "0 or more"
            raise ValueError(f"{at}: 't' is {frame.t:g}, expected {before}")
        frames.append(frame)
    return VideoGraph(tuple(frames))


def _frame(values: object, where: str) -> Frame:
    _only(values, where, "t", "objects", "relations")
    objects: dict[int, SeenObject] = {}
    for number, entry in enumerate(field(values, "objects", list, where)):
        at = f"{where}.objects[{number}]"
        thing = _object(entry, at)
        if thing.track in objects:
            raise ValueError(f"{at}: 'track' is {thing.track}, expected one that no earlier object of the frame has")
        objects[thing.track] = thing
    relations = tuple(
        _relation(entry, objects, f"{where}.relations[{number}]")
        for number, entry in enumerate(field(values, "relations", list, where))
    )
    return Frame(float(field(values, "t", float, where)), tuple(objects.values()), relations)


def _object(entry: object, where: str) -> SeenObject:
    _only(entry, where, "track", "label", "score", "box", "attributes")
    box = field(entry, "box", list, where)
    if len(box) != 4 or not all(map(_is_number, box)) or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(
            f"{where}: 'box' is {shown(box)}, expected [x0, y0, x1, y1] from 0 to 1 with x0 < x1 and y0 < y1"
        )
    attributes = field(entry, "attributes", list, where)
    if not all(isinstance(attribute, str) for attribute in attributes):
        raise ValueError(f"{where}: 'attributes' is {shown(attributes)}, expected a list of texts")
    score = _score(field(entry, "score", float, where), where)
    label = field(entry, "label", str, where)
    return SeenObject(_number(entry, "track", where), label, score, tuple(map(float, box)), tuple(attributes))


def _relation(entry: object, objects: dict[int, SeenObject], where: str) -> Relation:
    if not isinstance(entry, list) or len(entry) != 4:
        raise ValueError(f"{where}: it is {shown(entry)}, expected [subject, predicate, object, score]")
    subject, predicate, other, score = entry
    for name, track in (("subject", subject), *([("object", other)] if other is not None else [])):
        if not _is_whole(track) or track not in objects:
            raise ValueError(f"{where}: the {name} is {shown(track)}, expected the track of an object of this frame")
    if not isinstance(predicate, str):
        raise ValueError(f"{where}: the predicate is {shown(predicate)}, expected a text")
    return Relation(subject, predicate, other, _score(score, where))


def _grounding(entry: object, nodes: set[int], tracks: set[int], where: str) -> Grounding:
    _only(entry, where, "node", "tracks", "start", "end")
    node, about = _number(entry, "node", where), field(entry, "tracks", list, where)
    if node not in nodes:
        raise ValueError(f"{where}: 'node' is {node}, expected the id of a node of 'tsg'")
    if not about or not all(_is_whole(track) and track in tracks for track in about):
        raise ValueError(f"{where}: 'tracks' is {shown(about)}, expected a list of tracks of 'dsg'")
    start, end = (float(field(entry, key, float, where)) for key in ("start", "end"))
    if not 0 <= start < end:
        raise ValueError(f"{where}: 'start' is {start:g} and 'end' is {end:g}, expected 0 <= start < end")
    return Grounding(node, tuple(about), start, end)


def _only(values: object, where: str, *keys: str) -> None:
    """Refuse anything but an object that has no other key than these, so that a misspelt key is found."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: it is {shown(values)}, expected an object with {', '.join(keys)}")
    if unknown := [key for key in values if key not in keys]:
        raise ValueError(f"{where}: the key {shown(unknown[0])} is unknown, expected {', '.join(keys)}")


def _one_of(values: dict, key: str, choices: tuple[str, ...], where: str) -> str:
    if field(values, key, str, where) not in choices:
        raise ValueError(f"{where}: {key!r} is {shown(values[key])}, expected one of {', '.join(choices)}")
    return values[key]


def _number(values: dict, key: str, where: str) -> int:
    if field(values, key, int, where) < 0:
        raise ValueError(f"{where}: {key!r} is {values[key]}, expected 0 or more")
    return values[key]


def _score(value: object, where: str) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{where}: the score is {shown(value)}, expected a number from 0 to 1")
    return float(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
