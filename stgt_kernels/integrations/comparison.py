"""Compares a model's own code with the code that is to take its place, on random tokens."""

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stgt_kernels.graph import SpatioTemporalGraph

logger = logging.getLogger("stgt_kernels")

_NODES = 8
"""Tokens that attention is compared on"""

_MOST_NODES = 8192
"""The most tokens that a graph is compared on: 32 frames of 256 patches, whose dense weights take 268 MB in float32"""


def require_same(
    block: nn.Module,
    place: str,
    build_graph: Callable[[Tensor, int], SpatioTemporalGraph],
    attend: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, None]],
    frames: int,
    patches: int,
) -> bool:
    """Raises ValueError if a block computes something else than the functions that are to replace its own.

    A copy of the released code that was changed, such as a subclass, has the same attributes. The block's own code runs
    once with one sample, in evaluation mode. If it cannot run, or if its graph has more than 8192 tokens, a warning in
    the log says so, and nothing is raised.

    block: has ``build_graph`` and ``graphattn``. place: the beginning of messages. build_graph: the function that is to
    replace ``block.build_graph``. attend: that for ``block.graphattn.forward``, which takes the module as well. frames,
    patches: the clip that the block was made for.
    Returns whether gradients pass through the weights of the block's own graph.
    """
    if frames * patches > _MOST_NODES:
        logger.warning(
            "%s was not compared with our kernels: its g_mask joins %d tokens, and more than %d take too much memory",
            *(place, frames * patches, _MOST_NODES),
        )
        return False
    modes = {module: module.training for module in block.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            x = _tokens(block.graphattn, frames * patches, rank=3).requires_grad_()
            own = block.build_graph(x, frames)
            ours = build_graph(x.detach(), frames).to_dense()
            difference = _other_graph(own.detach(), ours, block.sim_th) or _other_attention(block, attend)
    except Exception as error:  # any code may be there, and a block that cannot run alone may well run in its model
        reason = f"{type(error).__name__}: {error}"
        logger.warning("%s could not be compared with our kernels: %s", place, reason)
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
    if difference:
        raise ValueError(f"{place} is not the released one: for random tokens of {frames} frames, {difference}")
    return own.requires_grad


def _other_graph(own: Tensor, ours: Tensor, threshold: float) -> str | None:
    """Returns what differs between the weights of a block's own graph and of ours, (1, N, N), or None."""
    rounding = 3e-2 if own.dtype in (torch.bfloat16, torch.float16) else 5e-3  # TF32 counts as float32
    own, ours = own.float(), ours.float()
    at_threshold = ((own == 0) | (ours == 0)) & ((own + ours - threshold).abs() <= rounding)
    differs = ((own - ours).abs() > rounding) & ~at_threshold
    if not differs.any():
        return None
    _, i, j = place = tuple(differs.nonzero()[0].tolist())
    return (
        f"build_graph gives {int(differs.sum())} of {differs.numel()} weights that are not those of g_mask and "
        f"sim_th={float(threshold):g}, such as {own[place].item():.3g} between the tokens {i} and {j}, where "
        f"{ours[place].item():.3g} was expected"
    )


@torch.no_grad()
def _other_attention(
    block: nn.Module, attend: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, None]]
) -> str | None:
    """Returns what differs between the block's own attention along a graph and ours, or None.

    It is compared in float64, since the softmax of large scores in half precision would differ by rounding alone.
    """
    attention = copy.deepcopy(block.graphattn).double()
    for module in attention.modules():
        module._forward_hooks.clear()  # a copied hook may note down what it sees for the user
    x = _tokens(attention, _NODES, rank=_NODES)
    weights = x @ x.transpose(1, 2)
    weights = torch.where(weights > 0, weights / weights.amax(), 0)  # each token has an edge to itself
    own, ours = attention.forward(x, graph_mask=weights)[0], attend(attention, x, weights)[0]
    error, largest = (own - ours).abs().max().item(), own.abs().max().item()
    if not own.isfinite().all() or error <= 1e-2 * largest:  # weights may not be loaded yet
        return None
    return (
        f"the result of graphattn differs by {error:.3g} from the expected one, and its own largest number is "
        f"{largest:.3g}"
    )


def _tokens(attention: nn.Module, count: int, rank: int) -> Tensor:
    """Random tokens (1, count, C) in a module's dtype. Those of a low rank have similarities of all sizes."""
    width = getattr(attention.W_Q, "in_features", attention.num_heads * attention.d_k)
    generator = torch.Generator().manual_seed(0)
    factors = (torch.randn(size, generator=generator, device="cpu") for size in ((1, count, rank), (rank, width)))
    x = torch.matmul(*factors) / rank**0.5
    return x.to(next((parameter for parameter in attention.W_Q.parameters() if parameter.is_floating_point()), x))
