"""Lets all tests of this folder import open_clip, timm and transformers."""

import stgt._torchvision  # noqa: F401
