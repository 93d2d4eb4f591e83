"""Simulated clips of coloured shapes, with which the whole system can be tried without a data set."""

from stgt.data.shapes.motion import render_motions
from stgt.data.shapes.write import render_shapes

__all__ = ["render_motions", "render_shapes"]
