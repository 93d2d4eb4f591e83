"""Sentences about scenes with phases: captions, questions, and captions that are wrong in one thing only.

Captions use the progressive ("is moving left"). For each predicate, its place in the text and its time are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from stgt.data.shapes.phases import Phase, PhasedObject, PhasedScene, meeting
from stgt.data.shapes.scene import Track

ORDERS = ("and then", "before", "after")
"""The words between two phases. With "after", the later phase is named first"""
OPPOSITES = {
    "moving left": "moving right",
    "moving right": "moving left",
    "moving up": "moving down",
    "moving down": "moving up",
    "growing": "shrinking",
    "shrinking": "growing",
}


@dataclass(frozen=True)
class Style:
    """The choices of a caption that do not follow from the scene, so that several captions can share them."""

    article: str
    orders: tuple[str, ...]
    """One of ORDERS for each object"""
    places: tuple[int, ...]
    """The order in which the objects are named"""


@dataclass(frozen=True)
class Predicate:
    """A predicate of a caption, with the truth about it. Spans are characters of the caption, [start, end)."""

    name: str
    subject: int
    object: int | None
    """Numbers of objects"""
    span: tuple[int, int]
    adverb: tuple[int, int] | None
    """The span of "slowly" or "quickly", if it is there"""
    start: float
    end: float
    """Times from 0 to 1"""
    after: int | None = None
    """The place in the list of the predicate that happens before this one, if the caption says so"""
    at_once: int | None = None
    """The place in the list of the predicate before "while", if this one follows "while\""""
    of: int | None = None
    """The place in the list of the predicate that is the subject of "behind" or "in front of\""""


def draw_style(scene: PhasedScene, rng: np.random.Generator) -> Style:
    """Draw the choices of a caption of a scene."""
    count = len(scene.objects)
    places = range(count) if scene.relation else rng.permutation(count)
    orders = rng.choice(ORDERS, count, p=[0.6, 0.2, 0.2])
    return Style(str(rng.choice(["a", "the"])), tuple(map(str, orders)), tuple(map(int, places)))


def caption(scene: PhasedScene, style: Style, tracks: list[Track]) -> tuple[str, list[Predicate]]:
    """A caption with every object and all its attributes, and its predicates in the order of the text."""
    if scene.relation:
        return _meeting_caption(scene, style, tracks)
    text, found = "", []
    for number in style.places:
        text += f"{' while ' if text else ''}{_name(scene.objects[number], style)} is "
        first = len(found)
        text, more = _said(text, number, scene.objects[number], style.orders[number], first)
        if first:
            more[0] = replace(more[0], at_once=0)
        found += more
    return text, found


def _said(text: str, number: int, thing: PhasedObject, order: str, first: int) -> tuple[str, list[Predicate]]:
    """A caption with the phases of an object at its end, and their predicates, whose numbers begin with `first`."""
    phases = thing.phases[::-1] if order == "after" else thing.phases
    found = []
    for place, phase in enumerate(phases):
        text += f" {order} " if place else ""
        start = len(text)
        text += phase.motion
        span, adverb = (start, len(text)), None
        if phase.speed:
            text += f" {phase.speed}"
            adverb = (span[1] + 1, len(text))
        found.append(Predicate(phase.motion, number, None, span, adverb, phase.start, phase.end))
    if len(found) == 2:
        later, earlier = (0, 1) if order == "after" else (1, 0)
        found[later] = replace(found[later], after=first + earlier)
    return text, found


def _meeting_caption(scene: PhasedScene, style: Style, tracks: list[Track]) -> tuple[str, list[Predicate]]:
    mover, other = scene.objects
    start, end = meeting(scene, tracks)
    text = f"{_name(mover, style)} is "
    motion, name = mover.phases[0].motion, "hitting" if scene.relation == "hits" else scene.relation
    until = (start + end) / 2 if scene.relation == "hits" else 1.0  # a hit passes the motion on
    moving = Predicate(motion, 0, None, (len(text), len(text) + len(motion)), None, 0.0, until)
    text += f"{motion} and " if scene.relation == "hits" else f"{motion} "
    span = (len(text), len(text) + len(name))
    met = Predicate(name, 0, 1, span, None, start, end, of=None if scene.relation == "hits" else 0)
    return f"{text}{name} {_name(other, style)}", [moving, met]


def _name(thing: PhasedObject, style: Style) -> str:
    return " ".join(filter(None, (style.article, thing.size, thing.colour, thing.shape)))


def negatives(scene: PhasedScene, style: Style, tracks: list[Track], rng: np.random.Generator) -> dict[str, str]:
    """Captions that are wrong in one thing: {kind: caption}. A kind that the scene does not allow is absent.

    Each could be the true caption of another scene, so its words alone do not show that it is wrong.
    """
    wrong = {
        "attribute": _swap_colours(scene),
        "subject": _swap_subjects(scene),
        "direction": _change(scene, rng, lambda phase: OPPOSITES.get(phase.motion), "motion"),
        "order": _swap_phases(scene, rng),
        "adverb": _change(
            scene, rng, lambda phase: {"slowly": "quickly", "quickly": "slowly"}.get(phase.speed), "speed"
        ),
    }
    # Two objects of one look that do the same may exchange their colours, and the caption stays true.
    changed = {kind: other for kind, other in wrong.items() if other is not None and other.meaning != scene.meaning}
    return {kind: caption(other, style, tracks)[0] for kind, other in changed.items()}


def _swap_colours(scene: PhasedScene) -> PhasedScene | None:
    if len(scene.objects) < 2 or scene.objects[0].colour == scene.objects[1].colour:
        return None
    one, other = scene.objects
    return replace(scene, objects=(replace(one, colour=other.colour), replace(other, colour=one.colour)))


def _swap_subjects(scene: PhasedScene) -> PhasedScene | None:
    """The two objects exchange colours and shapes. Sizes stay, since they depend on the motions of the objects."""
    if len(scene.objects) < 2:
        return None
    one, other = scene.objects
    swapped = (
        replace(one, colour=other.colour, shape=other.shape),
        replace(other, colour=one.colour, shape=one.shape),
    )
    return replace(scene, objects=swapped) if all(map(_can_turn, swapped)) else None


def _can_turn(thing: PhasedObject) -> bool:
    return thing.shape != "circle" or all(phase.motion != "turning" for phase in thing.phases)


def _swap_phases(scene: PhasedScene, rng: np.random.Generator) -> PhasedScene | None:
    """One object does its phases in the other order. It never vanishes first, since no true caption says that."""
    choices = []
    for number, thing in enumerate(scene.objects):
        if len(thing.phases) == 2 and thing.phases[1].motion != "vanishing":
            choices.append((number, thing.phases[::-1]))
    return _replace_one(scene, rng, choices)


def _change(
    scene: PhasedScene, rng: np.random.Generator, other: Callable[[Phase], str | None], name: str
) -> PhasedScene | None:
    """A scene in which one phase has another motion or speed."""
    choices = []
    for number, thing in enumerate(scene.objects):
        for place, phase in enumerate(thing.phases):
            if (value := other(phase)) is not None:
                phases = list(thing.phases)
                phases[place] = replace(phase, **{name: value})
                if len({phase.motion for phase in phases}) == len(phases):
                    choices.append((number, tuple(phases)))
    return _replace_one(scene, rng, choices)


def _replace_one(
    scene: PhasedScene, rng: np.random.Generator, choices: list[tuple[int, tuple[Phase, ...]]]
) -> PhasedScene | None:
    if not choices:
        return None
    number, phases = choices[int(rng.integers(len(choices)))]
    objects = list(scene.objects)
    objects[number] = replace(objects[number], phases=phases)
    return replace(scene, objects=tuple(objects))


def questions(scene: PhasedScene, rng: np.random.Generator, count: int = 3) -> list[tuple[str, str]]:
    """Up to `count` distinct questions about a scene, each with its one right answer."""
    found = [("how many objects are there?", str(len(scene.objects))), *_questions(scene)]
    return [found[i] for i in sorted(rng.permutation(len(found))[:count])]


def _questions(scene: PhasedScene) -> Iterator[tuple[str, str]]:
    for thing in scene.objects[:1] if scene.relation else scene.objects:
        name = f"{thing.colour} {thing.shape}"
        if len(thing.phases) == 2:
            yield f"what is the {name} doing first?", thing.phases[0].motion
            yield f"what is the {name} doing last?", thing.phases[1].motion
        else:
            yield f"what is the {name} doing?", thing.phases[0].motion
        for phase in thing.phases:
            if phase.speed:
                yield f"how is the {name} {phase.motion}?", phase.speed
        if thing.size:
            yield f"what size is the {name}?", thing.size
    if scene.relation:
        mover, other = scene.objects
        yield f"which shape is the {mover.colour} {mover.shape} meeting?", other.shape
