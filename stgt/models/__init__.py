"""The STGT model, from frames and words to similarities and losses."""

import stgt._torchvision  # noqa: F401  (open_clip, timm and transformers import torchvision)
