"""Simulated clips of coloured shapes, for trying the whole system without a data set. No camera ever saw them."""

from stgt.data.shapes.write import render_shapes

__all__ = ["render_shapes"]
