"""How the sightings of objects lie and move: the Gaussian terms of the STGD layers, by an equation of our own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stgt.finsta.batching.edges import TYPES, both_ways, ragged
from stgt.finsta.config import FinstaConfig
from stgt_kernels import RaggedGraph

FLOOR = 1e-6
"""Added to a nearness before its logarithm is taken"""


@dataclass(frozen=True, eq=False)
class Space:
    """S sightings as nodes. Edges join two objects of a frame, and each sighting with itself.

    With `temporal_coref`, edges also join each sighting with the one before it of its track.
    """

    graph: RaggedGraph
    log_near: Tensor
    """(E, 1) float32, log(g + FLOOR) with g = exp(-|c_i - c_j|² / 2σ_s²) of the centres of the boxes"""
    change: Tensor
    """(E, 1) float32, |δ|: how much g has changed since the frame before; 0 if one of the two was not seen then"""
    previous: Tensor
    """(S,) int64, the sighting before of this sighting's track, or the sighting itself if it is the first one"""
    motion: Tensor
    """(S, 1) float32, m = 1 - exp(-|b - b'|² / 2σ_t²) of the box now and at the sighting before, with
    b = (centre x, centre y, log width, log height)"""
    stir: Tensor
    """(S, 1) float32, the sum of |δ| over the other objects of the frame"""


def space_of(box: np.ndarray, frame: np.ndarray, track: np.ndarray, T: int, config: FinstaConfig) -> Space:
    """The space of S sightings. box: (S, 4), parts of the frame; frame: (S,) clip · T + frame, ascending; track: (S,),
    different for different clips.
    """
    S = len(box)
    previous = _previous(track)
    size = np.maximum(box[:, 2:] - box[:, :2], 1e-6)
    state = np.concatenate([(box[:, :2] + box[:, 2:]) / 2, np.log(size)], axis=1)
    motion = 1 - np.exp(-((state - state[previous]) ** 2).sum(1) / (2 * config.sigma_t**2))
    first, second = _pairs(frame)
    log_near, near = _near(state, first, second, config.sigma_s)
    just = frame[previous] == frame - 1
    known = just[first] & just[second]
    _, before = _near(state, previous[first], previous[second], config.sigma_s)
    change = np.where(known, np.abs(near - before), 0.0)
    edges = [np.stack([second, first, np.full(len(first), TYPES["near"])])]
    logs, changes = [log_near], [change]
    if config.temporal_coref:
        again = np.flatnonzero(previous != np.arange(S))
        edges.append(both_ways(previous[again], again, "next", "previous"))
        logs += [_near(state, previous[again], again, config.sigma_s)[0]] * 2
        changes.append(np.zeros(2 * len(again)))
    edges.append(np.stack([np.arange(S), np.arange(S), np.full(S, TYPES["self"])]))
    logs.append(np.full(S, np.log(1 + FLOOR)))
    changes.append(np.zeros(S))
    return Space(
        graph=ragged(np.concatenate(edges, axis=1), frame // T),
        log_near=_column(np.concatenate(logs)),
        change=_column(np.concatenate(changes)),
        previous=torch.from_numpy(previous),
        motion=_column(motion),
        stir=_column(np.bincount(first, change, minlength=S)),
    )


def _previous(track: np.ndarray) -> np.ndarray:
    order = np.argsort(track, kind="stable")
    same = track[order][1:] == track[order][:-1]
    previous = np.arange(len(track))
    previous[order[1:][same]] = order[:-1][same]
    return previous


def _pairs(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of different sightings of one frame."""
    _, start, sizes = np.unique(frame, return_index=True, return_counts=True)
    others = np.repeat(sizes, sizes)
    first = np.repeat(np.arange(len(frame)), others)
    begin = np.cumsum(others) - others
    second = np.repeat(np.repeat(start, sizes), others) + np.arange(len(first)) - np.repeat(begin, others)
    return first[first != second], second[first != second]


def _near(state: np.ndarray, one: np.ndarray, other: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """log(g + FLOOR) and g."""
    near = np.exp(-((state[one, :2] - state[other, :2]) ** 2).sum(1) / (2 * sigma**2))
    return np.log(near + FLOOR), near


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None]
