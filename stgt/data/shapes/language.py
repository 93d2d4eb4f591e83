"""Sentences about a simulated scene: a caption that needs more than one frame, and questions with their answers."""

from __future__ import annotations

import numpy as np

from stgt.data.shapes.scene import Object, Scene


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption with every object and all its attributes, in a random order."""
    article = rng.choice(["a", "the"])
    if scene.relation:
        mover, other = (f"{article} {_name(thing)}" for thing in scene.objects)
        meets = "and hits" if scene.relation == "hits" else scene.relation
        return f"{mover} {scene.objects[0].motion} {meets} {other}"
    things = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    clauses = [f"{article} {_name(thing)} {thing.motion}" for thing in things]
    *most, last = clauses
    return f"{', '.join(most)} {rng.choice(['and', 'while'])} {last}" if most else last


def _name(thing: Object) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}".strip()


def questions(scene: Scene, rng: np.random.Generator, count: int = 3) -> list[tuple[str, str]]:
    """Up to `count` distinct questions about a scene, each with its one right answer."""
    found = [("how many objects are there?", str(len(scene.objects)))]
    for thing in scene.objects:
        name = f"{thing.colour} {thing.shape}"
        found.append((f"what does the {name} do?", thing.motion))
        if thing.size:
            found.append((f"what size is the {name}?", thing.size))
        if _alone(scene, "shape", thing):
            found.append((f"what colour is the {thing.shape}?", thing.colour))
        if _alone(scene, "colour", thing):
            found.append((f"what shape is the {thing.colour} object?", thing.shape))
        if _alone(scene, "motion", thing) and not scene.relation:
            found.append((f"which shape {thing.motion}?", thing.shape))
            found.append((f"what colour is the object that {thing.motion}?", thing.colour))
    if scene.relation:
        mover, other = scene.objects
        verb = "hits" if scene.relation == "hits" else f"passes {scene.relation}"
        found.append((f"which shape does the {mover.colour} {mover.shape} meet?", other.shape))
        found.append((f"what colour is the object that the {mover.colour} {mover.shape} {verb}?", other.colour))
        found.append((f"where does the object that {verb} another one move?", mover.motion.removeprefix("moves ")))
    return [found[i] for i in sorted(rng.permutation(len(found))[:count])]


def _alone(scene: Scene, attribute: str, thing: Object) -> bool:
    return sum(getattr(other, attribute) == getattr(thing, attribute) for other in scene.objects) == 1
