"""The content of a simulated clip: objects with a colour, shape, size and motion, and their places in each frame.

The canvas is the unit square, with x to the right and y down. Time runs from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Thing = TypeVar("Thing")

COLOURS = {
    "red": (225, 40, 40),
    "green": (45, 170, 60),
    "blue": (50, 85, 230),
    "yellow": (240, 215, 40),
    "purple": (165, 60, 200),
    "cyan": (60, 210, 215),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"small": 0.1, "large": 0.17}
"""{size: radius}. On 64 pixels a small object is 13 pixels wide."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOVES = tuple(f"moves {direction}" for direction in DIRECTIONS)
MOTIONS = (*MOVES, "grows", "shrinks", "turns", "vanishes", "stays")
BACKGROUNDS = ("plain", "gradient", "stripes", "noise")
RELATIONS = ("behind", "in front of", "hits")

EXTENT = 1.3
"""How far a shape may reach from its centre, in radii"""
GROWN = (0.08, 0.19)
"""The smallest and largest radius of an object that grows or shrinks"""
DIRECTION = {move: np.array(step, float) for move, step in zip(MOVES, DIRECTIONS.values(), strict=True)}


@dataclass(frozen=True, order=True)
class Object:
    """An object with its looks and its motion."""

    colour: str
    shape: str
    size: str
    """Empty for an object that grows or shrinks"""
    motion: str


@dataclass(frozen=True)
class Scene:
    """The objects of a clip, and how the first one meets the second."""

    objects: tuple[Object, ...]
    relation: str = ""
    """How the first object meets the second: it passes "behind" or "in front of" it, or "hits" it; empty if not"""

    @property
    def meaning(self) -> tuple:
        """A value that is equal for scenes which differ only in background and layout."""
        return (self.relation, self.objects if self.relation else tuple(sorted(self.objects)))


@dataclass(frozen=True)
class Track:
    """An object's course: arrays over frames."""

    centre: np.ndarray
    """float64 (F, 2)"""
    radius: np.ndarray
    angle: np.ndarray
    """Radians, clockwise"""
    opacity: np.ndarray


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: 30% have one object, 40% two, 20% two that meet, and 10% three."""
    kind = rng.choice(["one", "two", "relation", "three"], p=[0.3, 0.4, 0.2, 0.1])
    if kind == "relation":
        return _draw_relation(rng)
    objects: list[Object] = []
    sizes = ("small",) if kind == "three" else tuple(SIZES)  # three large objects do not fit
    while len(objects) < {"one": 1, "two": 2, "three": 3}[kind]:
        other = _draw_object(rng, sizes)
        if all((other.colour, other.shape) != (o.colour, o.shape) for o in objects):
            objects.append(other)
    return Scene(tuple(objects))


def _draw_object(rng: np.random.Generator, sizes: tuple[str, ...], motions: tuple[str, ...] = MOTIONS) -> Object:
    motion = str(rng.choice(motions))
    # A turning circle looks the same as one that stays.
    shape = str(rng.choice(SHAPES[1:] if motion == "turns" else SHAPES))
    size = "" if motion in ("grows", "shrinks") else str(rng.choice(sizes))
    return Object(str(rng.choice(list(COLOURS))), shape, size, motion)


def _draw_relation(rng: np.random.Generator) -> Scene:
    relation = str(rng.choice(RELATIONS))
    # These sizes make the relation visible: the far object is hidden, the near one does not hide everything, and there
    # is room for a push.
    sizes = {"behind": ("small", "large"), "in front of": ("small", "large"), "hits": ("small", "small")}[relation]
    mover = _draw_object(rng, sizes[:1], MOVES)
    while True:
        other = _draw_object(rng, sizes[1:] if relation != "hits" else tuple(SIZES), ("stays",))
        if (other.colour, other.shape) != (mover.colour, mover.shape):
            return Scene((mover, other), relation)


def simulate(scene: Scene, frames: int, rng: np.random.Generator) -> list[Track] | None:
    """Courses inside the canvas that meet only as the relation says, or None if none were found."""
    time = np.linspace(0, 1, frames)
    if scene.relation:
        return meet(scene, time, rng)
    return spread_out(scene.objects, lambda thing: _course(thing, time, rng))


def spread_out(things: Iterable[Thing], course: Callable[[Thing], Track | None]) -> list[Track] | None:
    """A course for each thing that keeps apart from the earlier ones, or None if 20 tries for a thing find none.

    course: draws a course for a thing, or returns None if the draw cannot be used.
    """
    tracks: list[Track] = []
    for thing in things:
        for _ in range(20):
            track = course(thing)
            if track is not None and all(apart(track, other) for other in tracks):
                tracks.append(track)
                break
        else:
            return None
    return tracks


def apart(one: Track, other: Track) -> bool:
    """Whether two objects keep a distance all the time."""
    distance = np.linalg.norm(one.centre - other.centre, axis=1)
    return bool((distance > 1.15 * (one.radius + other.radius)).all())


def _course(thing: Object, time: np.ndarray, rng: np.random.Generator) -> Track:
    still = np.ones_like(time)
    first, last = {"grows": GROWN, "shrinks": GROWN[::-1]}.get(thing.motion) or [SIZES[thing.size]] * 2
    radius = first + (last - first) * time
    border = EXTENT * radius.max()
    start, step = rng.uniform(border, 1 - border, 2), np.zeros(2)
    if thing.motion in DIRECTION:
        room = 1 - 2 * border
        step = DIRECTION[thing.motion] * rng.uniform(0.75 * room, room)
        start = np.clip(start, border - np.minimum(step, 0), 1 - border - np.maximum(step, 0))
    angle = rng.uniform(-0.15, 0.15) * still
    if thing.motion == "turns":
        angle = angle + time * rng.choice([-1, 1]) * rng.uniform(0.7, 1.1) * math.pi
    gone = rng.uniform(0.35, 0.6)
    opacity = np.interp(time, (gone, gone + 0.15), (1, 0)) if thing.motion == "vanishes" else still
    return Track(start + time[:, None] * step, radius, angle, opacity)


def meet(scene: Scene, time: np.ndarray, rng: np.random.Generator) -> list[Track]:
    """The courses of an object that crosses the canvas and of a resting one, which it passes or pushes."""
    mover, other = scene.objects
    near, far = SIZES[mover.size], SIZES[other.size]
    direction = DIRECTION[mover.motion]
    across = np.abs(direction[::-1])
    border = EXTENT * max(near, far)
    # Along the direction of movement, both objects have places from 0 to 1. `offsets` are their places across it.
    if scene.relation == "hits":
        contact = 1.05 * (near + far)
        first, last = EXTENT * near, 1 - EXTENT * far
        share = (last - first - contact) / 2
        hit = rng.uniform(0.4, 0.55)
        moving = first + share * np.minimum(time / hit, 1)
        resting = first + share + contact + share * np.maximum((time - hit) / (1 - hit), 0)
        offset = rng.uniform(border, 1 - border)
        offsets = offset, offset
    else:
        moving = np.interp(time, (0, 1), (EXTENT * near, 1 - EXTENT * near))
        resting = np.full_like(time, rng.uniform(0.42, 0.58))
        offset = rng.uniform(border, 1 - border)
        offsets = np.clip(offset + rng.uniform(-0.3, 0.3) * far, EXTENT * near, 1 - EXTENT * near), offset
    tracks = []
    for places, radius, shift in ((moving, near, offsets[0]), (resting, far, offsets[1])):
        places = places if direction.sum() > 0 else 1 - places
        still = np.ones_like(time)
        centre = places[:, None] * np.abs(direction) + shift * across
        tracks.append(Track(centre, radius * still, rng.uniform(-0.15, 0.15) * still, still))
    return tracks
