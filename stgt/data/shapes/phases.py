"""Simulated clips whose objects do one thing after another, slowly or quickly, at times that are known.

The canvas and the time are those of `stgt.data.shapes.scene`: the unit square, with time from 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stgt.data.shapes.scene import (
    COLOURS,
    DIRECTIONS,
    EXTENT,
    RELATIONS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    Track,
    meet,
    spread_out,
)

MOVES = tuple(f"moving {direction}" for direction in DIRECTIONS)
SPEEDS = ("slowly", "", "quickly")
"""Empty for a speed between the two, which captions do not name"""
RADII = (0.075, 0.19)
"""The smallest and largest radius of an object that grows or shrinks"""
# The change in the time of a whole clip, as the smallest and largest value for each speed: widths of the canvas for
# moving, natural logarithms of the radius for growing, and radians for turning. The ranges do not overlap.
RATES = {
    "moving": {"slowly": (0.24, 0.32), "": (0.5, 0.62), "quickly": (0.95, 1.2)},
    "growing": {"slowly": (0.5, 0.65), "": (1.1, 1.3), "quickly": (2.0, 2.4)},
    "turning": {"slowly": (1.4, 1.8), "": (3.0, 3.6), "quickly": (6.2, 7.2)},
}
VANISHING = 0.15
"""The time that an object takes to vanish"""


@dataclass(frozen=True, order=True)
class Phase:
    """The motion of an object from `start` to `end`."""

    motion: str
    """One of MOVES, "growing", "shrinking", "turning", "vanishing" or "staying\""""
    speed: str
    """One of SPEEDS"""
    start: float
    end: float

    @property
    def meaning(self) -> tuple[str, str]:
        return self.motion, self.speed


@dataclass(frozen=True, order=True)
class PhasedObject:
    """An object whose motions follow each other."""

    colour: str
    shape: str
    size: str
    """Empty for an object that grows or shrinks"""
    phases: tuple[Phase, ...]
    """One or two, in the order of time. The object rests before, between and after them"""

    @property
    def meaning(self) -> tuple:
        return self.colour, self.shape, self.size, tuple(phase.meaning for phase in self.phases)


@dataclass(frozen=True)
class PhasedScene:
    """The objects of a clip, and how the first one meets the second."""

    objects: tuple[PhasedObject, ...]
    relation: str = ""
    """How the first object meets the second: one of RELATIONS, or empty. In a meeting, the first moves and the second
    stays"""

    @property
    def meaning(self) -> tuple:
        """A value that is equal for scenes which differ only in background, layout and times."""
        meanings = [thing.meaning for thing in self.objects]
        return self.relation, tuple(meanings if self.relation else sorted(meanings))


def draw_scene(rng: np.random.Generator) -> PhasedScene:
    """Draw a scene: 40% have one object, 40% two, and 20% two that meet.

    Objects that meet have one phase each. About 60% of the others have two phases.
    """
    kind = rng.choice(["one", "two", "relation"], p=[0.4, 0.4, 0.2])
    if kind == "relation":
        return _draw_relation(rng)
    objects: list[PhasedObject] = []
    while len(objects) < (1 if kind == "one" else 2):
        other = _draw_object(rng, _draw_phases(rng))
        if all((other.colour, other.shape) != (o.colour, o.shape) for o in objects):
            objects.append(other)
    return PhasedScene(tuple(objects))


def _draw_phases(rng: np.random.Generator) -> tuple[Phase, ...]:
    if rng.random() < 0.4:
        start, end = rng.uniform(0.05, 0.3), rng.uniform(0.65, 0.9)
        return (_draw_phase(rng, (*MOVES, "growing", "shrinking", "turning", "vanishing", "staying"), start, end),)
    change = rng.uniform(0.4, 0.6)
    first = _draw_phase(rng, (*MOVES, "growing", "shrinking", "turning"), rng.uniform(0, 0.08), change)
    others = [m for m in (*MOVES, "growing", "shrinking", "turning", "vanishing") if m != first.motion]
    return first, _draw_phase(rng, tuple(others), change, rng.uniform(0.92, 1))


def _draw_phase(rng: np.random.Generator, motions: tuple[str, ...], start: float, end: float) -> Phase:
    # The four directions together are as frequent as two of the other motions.
    weights = np.array([0.5 if motion in MOVES else 1 for motion in motions])
    motion = str(rng.choice(motions, p=weights / weights.sum()))
    if motion == "staying":
        return Phase(motion, "", 0.0, 1.0)
    if motion == "vanishing":
        start = float(rng.uniform(start, end - VANISHING))
        return Phase(motion, "", start, start + VANISHING)
    speed = str(rng.choice(SPEEDS))
    if speed == "quickly":  # a quick motion has to end sooner, so that the object stays on the canvas
        end = min(end, start + 0.4)
    return Phase(motion, speed, float(start), float(end))


def _draw_object(
    rng: np.random.Generator, phases: tuple[Phase, ...], sizes: tuple[str, ...] = tuple(SIZES)
) -> PhasedObject:
    motions = {phase.motion for phase in phases}
    # A turning circle looks the same as one that stays.
    shape = str(rng.choice(SHAPES[1:] if "turning" in motions else SHAPES))
    size = "" if motions & {"growing", "shrinking"} else str(rng.choice(sizes))
    return PhasedObject(str(rng.choice(list(COLOURS))), shape, size, phases)


def _draw_relation(rng: np.random.Generator) -> PhasedScene:
    relation = str(rng.choice(RELATIONS))
    sizes = {"behind": ("small", "large"), "in front of": ("small", "large"), "hits": ("small", "small")}[relation]
    move, stay = Phase(str(rng.choice(MOVES)), "", 0.0, 1.0), Phase("staying", "", 0.0, 1.0)
    mover = _draw_object(rng, (move,), sizes[:1])
    while True:
        other = _draw_object(rng, (stay,), sizes[1:])
        if (other.colour, other.shape) != (mover.colour, mover.shape):
            return PhasedScene((mover, other), relation)


def simulate(scene: PhasedScene, frames: int, rng: np.random.Generator) -> list[Track] | None:
    """Courses inside the canvas on which objects meet only if the relation says so, or None if none were found."""
    time = np.linspace(0, 1, frames)
    if scene.relation:
        mover, other = scene.objects
        motion = mover.phases[0].motion.replace("moving", "moves")
        plain = [Object(thing.colour, thing.shape, thing.size, motion) for thing in (mover, other)]
        return meet(Scene(tuple(plain), scene.relation), time, rng)
    return spread_out(scene.objects, lambda thing: _course(thing, time, rng))


def _course(thing: PhasedObject, time: np.ndarray, rng: np.random.Generator) -> Track | None:
    """The course of an object, or None if it would leave the canvas or become too small or too large."""
    shift, growth = np.zeros((len(time), 2)), np.zeros_like(time)
    angle, opacity = rng.uniform(-0.15, 0.15) * np.ones_like(time), np.ones_like(time)
    for phase in thing.phases:
        done = np.clip(time, phase.start, phase.end) - phase.start
        if phase.motion in MOVES:
            step = np.array(DIRECTIONS[phase.motion.removeprefix("moving ")], float)
            shift += done[:, None] * step * rng.uniform(*RATES["moving"][phase.speed])
        elif phase.motion in ("growing", "shrinking"):
            sign = 1 if phase.motion == "growing" else -1
            growth += sign * done * rng.uniform(*RATES["growing"][phase.speed])
        elif phase.motion == "turning":
            angle += done * rng.choice([-1, 1]) * rng.uniform(*RATES["turning"][phase.speed])
        elif phase.motion == "vanishing":
            opacity = np.interp(time, (phase.start, phase.end), (1, 0))
    radius = _radius(thing, growth, rng)
    if radius is None:
        return None
    border = EXTENT * radius[:, None]
    low, high = (border - shift).max(0), (1 - border - shift).min(0)
    if (low > high).any():
        return None
    return Track(rng.uniform(low, high) + shift, radius, angle, opacity)


def _radius(thing: PhasedObject, growth: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The radius over time: that of the object's size, or a random one that stays within RADII."""
    if thing.size:
        return np.full_like(growth, SIZES[thing.size])
    low, high = math.log(RADII[0]) - growth.min(), math.log(RADII[1]) - growth.max()
    return np.exp(rng.uniform(low, high) + growth) if low <= high else None


def meeting(scene: PhasedScene, tracks: list[Track]) -> tuple[float, float]:
    """The interval in which the first object overlaps the second or hits it, as start and end from 0 to 1."""
    mover, other = tracks
    gap = np.linalg.norm(mover.centre - other.centre, axis=1) - mover.radius - other.radius
    steps = len(gap) - 1
    if scene.relation == "hits":
        pushed = np.flatnonzero(np.linalg.norm(np.diff(other.centre, axis=0), axis=1) > 1e-9)
        return max(pushed[0] / steps - 0.1, 0.0), min(pushed[0] / steps + 0.1, 1.0)
    near = np.flatnonzero(gap <= max(gap.min(), 0))
    return near[0] / steps, (near[-1] + 1) / steps
