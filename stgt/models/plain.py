"""Tells layers whose weights can be used directly from layers that others have put in their place."""

from __future__ import annotations

from torch import nn


def is_plain(*layers: nn.Module) -> bool:
    """Whether these layers are of PyTorch's own classes, which compute with their weights alone.

    Adapters (LoRA), parametrizations, quantization and FSDP put other classes in their place, which have to be called.
    """
    return all(type(layer) in (nn.Linear, nn.MultiheadAttention) for layer in layers)
