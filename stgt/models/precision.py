"""Precision. Weights are float32 always, and autocast computes in half precision where that is wanted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype that each value of a configuration's `precision` computes in"""


class Float32Module(nn.Module):
    """A module that refuses to convert its weights from float32, as `half` and `to(torch.bfloat16)` do.

    In half precision, small training steps would be rounded away, and edges near the threshold would change. Autocast
    saves as much time, and the configuration can store large frozen parts in bfloat16.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Module:
        """PyTorch calls this for every conversion and move of the module, and of any module that contains it."""
        dtype = fn(torch.empty(1, dtype=torch.float32, device="cpu")).dtype
        if dtype != torch.float32:
            raise ValueError(
                f"the weights of {type(self).__name__} cannot become {dtype}: keep float32 and use autocast, "
                "as in `with torch.autocast(device_type, torch.bfloat16)`"
            )
        return super()._apply(fn, recurse)
