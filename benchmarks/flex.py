"""FlexAttention: compiled, with a score_mod that reads the weights and a BlockMask of the band."""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks.inputs import AttentionInputs, Problem

BLOCK = 128


def prepare(
    inputs: AttentionInputs, *, banded: bool = False, mode: str | None = None, backend: str | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Compiled FlexAttention with the graph's weights, in the dtype that the kernels store.

    banded: whether its score_mod reads the weights in banded storage, or else as a dense matrix.
    """
    p = inputs.problem
    score_mod = banded_score(inputs.graph.weight) if banded else dense_score(inputs.graph.to_dense())
    mask = band_mask(p.T, p.P, p.band, inputs.q.device)
    compiled = torch.compile(flex_attention, dynamic=False, mode=mode)
    options = {"BACKEND": backend} if backend else None
    return lambda q, k, v: compiled(q, k, v, score_mod=score_mod, block_mask=mask, kernel_options=options)


def dense_score(weight: Tensor) -> Callable:
    """A score_mod that reads dense weights. weight: (B, N, N)."""

    def score_mod(score, b, h, i, j):
        w = weight[b, i, j]
        return torch.where(w != 0, score * w, float("-inf"))

    return score_mod


def banded_score(weight: Tensor) -> Callable:
    """A score_mod that reads banded weights. weight: (B, T, P, 2w+1, P).

    FlexAttention evaluates it for pairs outside the band as well, so the offset is clamped before it is an index.
    """
    P, O = weight.shape[2:4]

    def score_mod(score, b, h, i, j):
        frame, offset = i // P, j // P - i // P + O // 2
        w = weight[b, frame, i % P, offset.clamp(0, O - 1), j % P]
        return torch.where((offset >= 0) & (offset < O) & (w != 0), score * w, float("-inf"))

    return score_mod


def band_mask(T: int, P: int, window: int, device: torch.device | str = "cpu") -> BlockMask:
    """The blocks that touch the band. All are marked as full, since score_mod masks the pairs without an edge."""
    blocks = -(-T * P // BLOCK)
    start = torch.arange(blocks) * BLOCK
    first, last = start // P, (start + BLOCK - 1).clamp(max=T * P - 1) // P
    live = (first[:, None] - last[None, :] <= window) & (first[None, :] - last[:, None] <= window)
    count = live.sum(1).int()
    columns = torch.argsort(live.int(), dim=1, descending=True, stable=True).int()
    none = torch.zeros(1, 1, blocks, dtype=torch.int32), torch.zeros(1, 1, blocks, blocks, dtype=torch.int32)
    full = count[None, None], columns[None, None]
    tensors = [t.to(device) for t in (*none, *full)]
    return BlockMask.from_kv_blocks(*tensors, BLOCK_SIZE=BLOCK, seq_lengths=(T * P, T * P))


def why_not(problem: Problem, device: torch.device, backward: bool) -> str | None:
    if backward and device.type == "cpu":
        return "FlexAttention has no backward pass on the CPU"
    return None


def why_not_autotuned(problem: Problem, device: torch.device, backward: bool) -> str | None:
    if device.type == "cpu":
        return "FlexAttention has only one kernel on the CPU, so there is nothing to tune"
    return None


def why_not_flash(problem: Problem, device: torch.device, backward: bool) -> str | None:
    if device.type == "cpu":
        return "the FLASH backend runs on GPUs"
    if problem.dtype == "fp32":
        return "the FLASH backend computes in half precision"
    if importlib.util.find_spec("flash_attn") is None or importlib.util.find_spec("flash_attn.cute") is None:
        return "flash-attn-4 is not installed"
    return None
