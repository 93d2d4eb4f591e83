"""The kinds of hosts. Options of commands name them, so this module needs no torch."""

from typing import Literal

HostKind = Literal["stgt", "clip", "xclip", "blip2"]
"""Our own model, or CLIPModel, XCLIPModel or Blip2ForImageTextRetrieval of transformers"""
