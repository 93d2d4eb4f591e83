"""A CLIP of open_clip with its tokenizer. open_clip is slow to import, so it is imported when a model is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import stgt._torchvision  # noqa: F401  (open_clip imports torchvision)
from stgt.causes import first_line
from stgt.files import tensors_hash


class OpenClip(NamedTuple):
    """A model, its tokenizer and the pixels that it wants."""

    name: str
    """ARCHITECTURE/WEIGHTS, with the absolute path of a file of weights"""
    model: nn.Module
    tokenizer: object
    size: int
    crop: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def digest(self) -> str:
        """A name for the weights and the pixels."""
        return tensors_hash(self.model.state_dict(), repr((self.size, self.crop, self.mean, self.std)))[:16]

    @torch.inference_mode()
    def encode_images(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Unit vectors of images (n, 3, S, S): float32 (n, E), on the CPU."""
        device = next(self.model.parameters()).device
        parts = (self.model.encode_image(part.to(device), normalize=True) for part in images.split(batch_size))
        return torch.cat([part.float().cpu() for part in parts])

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Unit vectors of sentences: float32 (N, E), on the CPU."""
        device = next(self.model.parameters()).device
        return self.model.encode_text(self.tokenizer(texts).to(device), normalize=True).float().cpu()


def is_architecture(name: str) -> bool:
    """Whether open_clip has an architecture of this name, such as ViT-B-32."""
    import open_clip

    return name in open_clip.list_models()


def load(name: str, device: torch.device) -> OpenClip:
    """The model ARCHITECTURE/WEIGHTS, e.g. ViT-B-32/laion2b_s34b_b79k. The weights may be a file, which needs no net.

    Raises ValueError for an architecture or weights that open_clip does not have or that do not fit, and OSError if the
    weights cannot be downloaded.
    """
    import open_clip

    architecture, _, weights = name.partition("/")
    if not is_architecture(architecture):
        raise ValueError(
            f"openclip:{name}: open_clip has no architecture {architecture!r}, expected openclip:ARCHITECTURE/WEIGHTS, "
            "such as openclip:ViT-B-32/laion2b_s34b_b79k, with one of open_clip.list_models()"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = weights in tags
    source = weights if known else os.path.abspath(weights)
    if not known and not Path(source).is_file():
        raise ValueError(
            f"openclip:{name}: {weights!r} is neither a file nor weights of {architecture}, expected a file or one of "
            f"{', '.join(tags) or 'no others'}"
        )
    try:
        model = open_clip.create_model(architecture, source, device=device, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        reason = first_line(error)
        if known:
            raise OSError(
                f"openclip:{name}: the weights or the tokenizer could not be fetched ({reason}); without a net, "
                f"give the path of a file of weights: openclip:{architecture}/FILE"
            ) from error
        raise ValueError(
            f"openclip:{name}: the file does not hold weights of {architecture}, or is damaged: {reason}"
        ) from error
    wanted = model.visual.preprocess_cfg
    size = wanted["size"][0] if isinstance(wanted["size"], (tuple, list)) else wanted["size"]
    mode = wanted.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise ValueError(f"openclip:{name}: it wants frames with borders ({mode}), expected a model without")
    pixels = (size, mode == "shortest", tuple(wanted["mean"]), tuple(wanted["std"]))
    return OpenClip(f"{architecture}/{source}", model.eval(), tokenizer, *pixels)
