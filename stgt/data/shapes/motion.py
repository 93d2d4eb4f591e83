"""Writes simulated clips in groups. The clips of a group show the same two objects with other motions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stgt.data.shapes import language
from stgt.data.shapes.render import encode, render
from stgt.data.shapes.scene import BACKGROUNDS, COLOURS, MOVES, SHAPES, Object, Scene, Track, simulate
from stgt.data.shapes.write import NOTE, render_once, save
from stgt.files import write_text

GROUP = 8
"""The number of clips in a group"""
WAYS = (*MOVES, "turns", "vanishes", "stays")
"""The motions that do not change the size of an object"""
README = f"""# Simulated clips for a test of motion

{NOTE}

- `videos/`: {{groups}} groups of {GROUP} clips. The clips of a group show the same two objects with other motions
- `test.json`: a caption for each clip, group after group
- `scenes.json`: the settings
"""


def render_motions(out_dir: str | Path, *, groups: int, seed: int = 0, size: int = 64, frames: int = 16) -> Path:
    """Render `groups` groups of GROUP clips into `out_dir`, unless they are there.

    The same arguments give the same files. Raises DamagedError, naming a file that has changed since it was rendered,
    and ValueError for numbers out of range, and for a folder that holds anything else.
    """
    settings = {"groups": groups, "seed": seed, "size": size, "frames": frames}
    return render_once(out_dir, settings, _write)


def draw_group(rng: np.random.Generator, frames: int) -> list[tuple[Scene, list[Track]]]:
    """GROUP scenes with the same two small objects and different motions, and the courses of the objects."""
    looks = [(colour, shape) for colour in COLOURS for shape in SHAPES[1:]]  # a turning circle seems to stay
    pair = [looks[number] for number in rng.choice(len(looks), 2, replace=False)]
    found: dict[tuple[str, ...], tuple[Scene, list[Track]]] = {}
    while len(found) < GROUP:
        motions = tuple(str(motion) for motion in rng.choice(WAYS, 2))
        scene = Scene(tuple(Object(*look, "small", motion) for look, motion in zip(pair, motions, strict=True)))
        if motions not in found and (tracks := simulate(scene, frames, rng)) is not None:
            found[motions] = scene, tracks
    return list(found.values())


def _write(out: Path, settings: dict[str, int]) -> None:
    rng = np.random.default_rng(settings["seed"])
    pairs = []
    for number in range(settings["groups"]):
        for scene, tracks in draw_group(rng, settings["frames"]):
            name = f"group{number:04d}_{len(pairs) % GROUP}.mp4"
            background = str(rng.choice(BACKGROUNDS))
            encode(render(scene, tracks, background, settings["size"], rng).frames, out / "videos" / name)
            pairs.append({"video": name, "caption": language.caption(scene, rng), "simulated": True})
    save(out / "test.json", pairs)
    save(out / "scenes.json", {"simulated": True, "note": NOTE, "settings": settings})
    write_text(out / "README.md", README.format(**settings))
