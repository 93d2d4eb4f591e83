"""The precision of weights: float32, and half precision by autocast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Float32Module(nn.Module):
    """A module that refuses to have its weights converted from float32, by `half`, `to(torch.bfloat16)` and the like.

    In half precision the steps of training would be lost, and edges near the threshold would come and go. Autocast
    saves as much time, and what is large and frozen is stored in bfloat16 by the configuration.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Module:
        """Every conversion and move of a module comes through here, also those of a module that contains it."""
        dtype = fn(torch.empty(1, dtype=torch.float32, device="cpu")).dtype
        if dtype != torch.float32:
            raise ValueError(
                f"the weights of {type(self).__name__} cannot become {dtype}: keep float32 and use autocast, "
                "as in `with torch.autocast(device_type, torch.bfloat16)`"
            )
        return super()._apply(fn, recurse)
