"""Draws a simulated scene, anti-aliased, and writes it as an mp4 file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from stgt.data.shapes.scene import COLOURS, Scene, Track

FPS = 8
OUTLINE = 1.2
"""Pixels of the darker border, which keeps overlapping objects apart"""


@dataclass(frozen=True)
class Rendering:
    """The frames of a clip, and where its objects are in them."""

    frames: np.ndarray
    """uint8 (F, S, S, 3)"""
    boxes: np.ndarray
    """float64 (objects, F, 4): x0, y0, x1, y1 in pixels of the whole object, even if a part of it is hidden"""
    visible: np.ndarray
    """float64 (objects, F): the share of the object's area that is seen"""


def render(scene: Scene, tracks: list[Track], background: str, size: int, rng: np.random.Generator) -> Rendering:
    """Draw a scene on a `size`×`size` canvas. Later objects lie over earlier ones, except for "in front of"."""
    frames = len(tracks[0].radius)
    image = np.broadcast_to(_background(background, size, rng), (frames, size, size, 3)).copy()
    distances = [_distance(thing.shape, track, size) for thing, track in zip(scene.objects, tracks, strict=True)]
    covers = [np.clip(0.5 - distance, 0, 1) for distance in distances]
    order = list(range(len(tracks)))
    if scene.relation == "in front of":
        order.reverse()
    alphas = [c * track.opacity.astype(np.float32)[:, None, None] for c, track in zip(covers, tracks, strict=True)]
    seen = list(alphas)
    for place, number in enumerate(order):
        inside = np.clip(0.5 - distances[number] - OUTLINE, 0, 1)
        colour = np.array(COLOURS[scene.objects[number].colour], np.float32) * (0.55 + 0.45 * inside[..., None])
        alpha = alphas[number]
        image += alpha[..., None] * (colour - image)
        for under in order[:place]:
            seen[under] = seen[under] * (1 - alpha)
    area = [cover.sum((1, 2)) for cover in covers]
    return Rendering(
        frames=np.clip(image + 0.5, 0, 255).astype(np.uint8),
        boxes=np.stack([_boxes(cover) for cover in covers]),
        visible=np.stack([s.sum((1, 2)) / a for s, a in zip(seen, area, strict=True)]),
    )


def _boxes(cover: np.ndarray) -> np.ndarray:
    sides = []
    for axis in (1, 2):  # columns, then rows
        hit = (cover > 0.5).any(axis)
        sides += [hit.argmax(1), hit.shape[1] - hit[:, ::-1].argmax(1)]
    return np.stack([sides[0], sides[2], sides[1], sides[3]], 1).astype(float)


def _distance(shape: str, track: Track, size: int) -> np.ndarray:
    """Signed distance in pixels of every pixel's centre from the outline, negative inside: float32 (F, S, S)."""
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    numbers = (*track.centre.T, track.radius, np.cos(track.angle), np.sin(track.angle))
    centre_x, centre_y, radius, cos, sin = (n.astype(np.float32)[:, None, None] for n in numbers)
    x, y = (grid[None, None, :] - centre_x) / radius, (grid[None, :, None] - centre_y) / radius
    return SHAPE_DISTANCES[shape](cos * x + sin * y, cos * y - sin * x) * (radius * size)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, math.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.65


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.1, np.minimum(x, y) - 0.38)


def _star(x: np.ndarray, y: np.ndarray, tip: float = 1.3, notch: float = 0.55) -> np.ndarray:
    """A star with five points. The plane is folded onto a tenth of it, in which the outline is one straight line."""
    angle = np.arctan2(x, -y)
    angle = np.abs((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    length = np.hypot(x, y)
    dx, dy = notch * math.cos(math.pi / 5) - tip, notch * math.sin(math.pi / 5)
    norm = math.hypot(dx, dy)
    return (length * np.cos(angle) - tip) * (dy / norm) - length * np.sin(angle) * (dx / norm)


SHAPE_DISTANCES = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}


def _background(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A dim greyish picture, on which every colour can be seen: float32 (S, S, 3)."""
    base = rng.uniform(35, 100) + rng.uniform(-12, 12, 3)
    if kind == "plain":
        pattern = np.zeros((size, size))
    elif kind == "noise":
        coarse = rng.uniform(-1, 1, (size // 4 + 1, size // 4 + 1))
        pattern = np.kron(coarse, np.ones((4, 4)))[:size, :size]
    else:
        angle = rng.uniform(0, 2 * math.pi)
        grid = np.linspace(-1, 1, size)
        along = math.cos(angle) * grid[None] + math.sin(angle) * grid[:, None]
        pattern = along if kind == "gradient" else np.sign(np.sin(along * rng.uniform(8, 16)))
    return (base + 18 * pattern[..., None]).clip(0, 255).astype(np.float32)


def encode(frames: np.ndarray, path: Path) -> None:
    """Write uint8 (F, S, S, 3) as H.264 in an mp4 file. The same frames give the same bytes."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        # With look-ahead, encoders that run at the same time sometimes write other bits for the same frames.
        options = {"crf": "12", "preset": "veryfast", "tune": "zerolatency", "g": str(FPS)}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
