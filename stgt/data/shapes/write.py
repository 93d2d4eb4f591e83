"""Writes a whole simulated data set: clips as mp4 files, and captions, questions and true scene graphs as JSON."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from tqdm import tqdm

from stgt.data.shapes import language, phases, phrases
from stgt.data.shapes import scene as motions
from stgt.data.shapes.phases import PhasedScene
from stgt.data.shapes.render import FPS, Rendering, encode, render
from stgt.data.shapes.scene import BACKGROUNDS, Scene, Track
from stgt.files import atomic_folder
from stgt.integrity import CHECKSUMS, checksum_lines, has_checksums, verify_checksums
from stgt.ownership import owned, remove_dead_lock
from stgt.structure import field, read_json, shown

logger = logging.getLogger(__name__)

NOTE = "Simulated: computer-drawn shapes with generated sentences. No camera saw these clips, nobody described them."
README = f"""# Simulated clips

{NOTE}
They show whether the system runs and learns. They do not show how well it works on real video.

- `videos/`: H.264 in mp4, {{size}}×{{size}} pixels, {{frames}} frames at {FPS} per second
- `train.json`, `test.json`: captions, in the retrieval format; all test captions differ in meaning from each other and
  from all training captions
- `qa_train.json`, `qa_test.json`, `ans2label.json`: questions
- `scenes.json`: the content of each frame: objects with their identity, attributes, centre, box and visible share, and
  their relations, as [subject, relation, object]

Seed {{seed}}, {{train}} training and {{test}} test clips.
"""
PHASES = """
The objects do one thing after another, slowly or quickly. `scenes.json` also holds

- `phases` of each object: motion and speed, and start and end in seconds
- `predicates` of each caption: the characters of the predicate and of its adverb, its subject and object, and the
  interval [start, end) in seconds in which it is true; `after`, `at_once` and `of` are places of other predicates in
  the list: the one that happens before, the one that happens at the same time, and the one that is the subject
- `negatives`: captions that are wrong in one thing: an attribute, the subject, a direction, the order or an adverb
"""
Kind = Literal["motions", "phases"]


def render_shapes(
    out_dir: str | Path,
    *,
    train: int,
    test: int,
    seed: int = 0,
    size: int = 64,
    frames: int = 16,
    kind: Kind = "motions",
) -> Path:
    """Render `train` + `test` clips into `out_dir`, unless they are there. The same arguments give the same files.

    kind: "motions" has one motion per object in the whole clip; in "phases" one motion follows another, slowly or
    quickly, and the files also hold the time during which each predicate of a caption is true.

    Clips that are there are compared with their checksums. Raises DamagedError, naming a file that has changed since it
    was rendered, and ValueError for a number of clips, size or frames out of range, and for a folder that holds
    anything else.
    """
    settings = {"train": train, "test": test, "seed": seed, "size": size, "frames": frames}
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(map(repr, get_args(Kind)))}")
    if kind != "motions":  # the files of the usual kind do not name it
        settings["kind"] = kind
    return render_once(out_dir, settings, _write)


def render_once(
    out_dir: str | Path, settings: dict[str, int | str], write: Callable[[Path, dict[str, int | str]], None]
) -> Path:
    """Call write(folder, settings), which fills the folder and its `videos`, unless `out_dir` has its result.

    `write` puts the settings into `scenes.json`. Raises DamagedError and ValueError as `render_shapes` does.
    """
    _require(settings)
    out = Path(out_dir)
    if out.exists():
        remove_dead_lock(out)
        _require_same(out, settings)
        return out
    with owned(out, beside=True), atomic_folder(out) as unfinished:
        (unfinished / "videos").mkdir()
        write(unfinished, settings)
        (unfinished / CHECKSUMS).write_text(checksum_lines(unfinished), "utf-8")
    return out


def _require(settings: dict[str, int | str]) -> None:
    ranges = {
        "train": (1, 1_000_000),
        "test": (0, 20_000),  # there are not many more scenes that differ in meaning
        "groups": (1, 10_000),
        "seed": (0, 2**63 - 1),
        "size": (32, 4096),
        "frames": (2, 10_000),
    }
    for name, (low, high) in ranges.items():
        if name in settings and not low <= settings[name] <= high:
            raise ValueError(f"{name} is {settings[name]}, expected at least {low} and at most {high}")
    if settings["size"] % 2:
        raise ValueError(f"size is {settings['size']}, expected an even number: H.264 halves the colours' resolution")


def _require_same(out: Path, settings: dict[str, int | str]) -> None:
    if has_checksums(out):
        verify_checksums(out)
    file = out / "scenes.json"
    if not file.is_file():
        raise ValueError(f"{out} holds no simulated clips, expected a folder of them or none at all")
    there = field(read_json(file, dict), "settings", dict, str(file))
    there, settings = ({"kind": "motions"} | values for values in (there, settings))
    if differing := [name for name in settings if there.get(name) != settings[name]]:
        differing = [f"{name} is {shown(there.get(name))} there, not {settings[name]}" for name in differing]
        raise ValueError(
            f"{out} holds other simulated clips: {', '.join(differing)}; choose another folder, or remove this one"
        )
    if not has_checksums(out):
        logger.warning("%s has no checksums, as version 0.1.0 wrote none: damage to its clips may go unnoticed", out)


def _write(out: Path, settings: dict[str, int | str]) -> None:
    seed, size = settings["seed"], settings["size"]
    describe = _describe_phases if settings.get("kind") == "phases" else _describe
    scenes = _draw_scenes(settings)

    def write(place: tuple[str, int, Scene | PhasedScene, list[Track]]) -> dict:
        split, number, scene, tracks = place
        rng = np.random.default_rng((seed, split == "test", number))
        name, background = f"{split}_{number:05d}.mp4", str(rng.choice(BACKGROUNDS))
        rendering = render(scene, tracks, background, size, rng)
        encode(rendering.frames, out / "videos" / name)
        before, after = describe(scene, tracks, rng)
        return {
            "video": name,
            **before,
            "background": background,
            "relation": scene.relation,
            **after,
            "frames": _scene_graph(scene, tracks, rendering, size),
        }

    # Threads are enough, because drawing and encoding release the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            clips = list(tqdm(threads.map(write, scenes), total=len(scenes), desc="simulated clips", unit="clip"))
        except BaseException:  # leaving the block would wait for all clips that are still to come
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    answers = sorted({answer for clip in clips for _, answer in clip["questions"]})
    save(out / "ans2label.json", {answer: label for label, answer in enumerate(answers)})
    for split in ("train", "test"):
        chosen = [clip for clip in clips if clip["video"].startswith(split)]
        pairs = [{"video": clip["video"], "caption": clip["caption"], "simulated": True} for clip in chosen]
        save(out / f"{split}.json", pairs)
        save(out / f"qa_{split}.json", _questions(chosen))
    save(out / "scenes.json", {"simulated": True, "note": NOTE, "settings": settings, "clips": clips})
    more = PHASES if settings.get("kind") == "phases" else ""
    (out / "README.md").write_text(README.format(**settings) + more, "utf-8")


def _describe(scene: Scene, tracks: list[Track], rng: np.random.Generator) -> tuple[dict, dict]:
    """The caption and the questions about a scene, and the facts about its objects."""
    said = {"caption": language.caption(scene, rng), "questions": language.questions(scene, rng)}
    return said, {"objects": [{"id": i, **vars(thing)} for i, thing in enumerate(scene.objects)]}


def _describe_phases(scene: PhasedScene, tracks: list[Track], rng: np.random.Generator) -> tuple[dict, dict]:
    frames = len(tracks[0].radius)
    style = phrases.draw_style(scene, rng)
    caption, predicates = phrases.caption(scene, style, tracks)
    said = {
        "caption": caption,
        "questions": phrases.questions(scene, rng),
        "negatives": phrases.negatives(scene, style, tracks, rng),
        "predicates": [vars(predicate) | _seconds(predicate, frames) for predicate in predicates],
    }
    objects = [
        vars(thing) | {"id": i, "phases": [vars(phase) | _seconds(phase, frames) for phase in thing.phases]}
        for i, thing in enumerate(scene.objects)
    ]
    return said, {"objects": objects}


def _seconds(timed: phases.Phase | phrases.Predicate, frames: int) -> dict[str, float]:
    """The interval in seconds. The last frame lasts until the next one would begin."""
    times = (timed.start, timed.end)
    start, end = (time * (frames - 1) / FPS if time < 1 else frames / FPS for time in times)
    return {"start": round(start, 4), "end": round(end, 4)}


def _draw_scenes(settings: dict[str, int | str]) -> list[tuple[str, int, Scene | PhasedScene, list[Track]]]:
    """Test scenes that differ in meaning, then training scenes with other meanings than those."""
    kind = phases if settings.get("kind") == "phases" else motions
    rng = np.random.default_rng(settings["seed"])
    scenes = []
    tested: set[tuple] = set()
    for split in ("test", "train"):
        number = 0
        while number < settings[split]:
            drawn = kind.draw_scene(rng)
            tracks = kind.simulate(drawn, settings["frames"], rng)
            if tracks is None or drawn.meaning in tested:
                continue
            scenes.append((split, number, drawn, tracks))
            number += 1
            if split == "test":
                tested.add(drawn.meaning)
    return scenes


def _questions(clips: list[dict]) -> list[dict]:
    return [
        {
            "video": clip["video"],
            "question": question,
            "answer": answer,
            "question_id": f"{Path(clip['video']).stem}_{number}",
            "simulated": True,
        }
        for clip in clips
        for number, (question, answer) in enumerate(clip["questions"])
    ]


def _scene_graph(scene: Scene | PhasedScene, tracks: list[Track], rendering: Rendering, size: int) -> list[dict]:
    """For each frame, the objects in pixels, and the relations of their pairs."""
    return [
        {
            "objects": [
                {
                    "id": i,
                    "centre": (track.centre[f] * size).round(1).tolist(),
                    "box": rendering.boxes[i, f].tolist(),
                    "radius": round(track.radius[f] * size, 1),
                    "angle": round(track.angle[f], 2),
                    "visible": round(float(rendering.visible[i, f]), 2),
                }
                for i, track in enumerate(tracks)
            ],
            "relations": [
                [i, relation, j]
                for i in range(len(tracks))
                for j in range(i + 1, len(tracks))
                for relation in _relations(scene, rendering.boxes[i, f], rendering.boxes[j, f])
            ],
        }
        for f in range(len(rendering.frames))
    ]


def _relations(scene: Scene | PhasedScene, one: np.ndarray, other: np.ndarray) -> list[str]:
    """Where the first box lies beside the second, or, if they overlap, which object is nearer."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one, other
    sides = {"left of": x1 <= u0, "right of": x0 >= u1, "above": y1 <= v0, "below": y0 >= v1}
    found = [side for side, holds in sides.items() if holds]
    if found:
        return found
    return [scene.relation if scene.relation in ("behind", "in front of") else "touches"]


def save(path: Path, value: object) -> None:
    """Write a value as JSON without spaces."""
    path.write_text(json.dumps(value, separators=(",", ":")), "utf-8")
