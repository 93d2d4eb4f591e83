"""Whom one token of a clip is linked to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from stgt.figures.style import write
from stgt_kernels import SpatioTemporalGraph

REFERENCE = "#ff2d55"


class Token(NamedTuple):
    """A patch of a clip: frame, row and column, from 0."""

    frame: int
    row: int
    column: int


@torch.inference_mode()
def token_links(model: nn.Module, video: Tensor, token: Token, *, layer: int = 0) -> Tensor:
    """Edge weights from one token to every patch of the clip, 0 where there is no edge.

    video: (T, 3, S, S) normalised → float32 (T, rows, columns), NaN in frames beyond the window. Raises ValueError for
    a token or layer that the model does not have, or a model without a graph.
    """
    config, grid = model.config.graph, model.config.vision.grid
    if config.kind != "graph":
        raise ValueError(f"the model joins frames by {config.kind!r}, expected 'graph': it has no links to draw")
    for name, place, size in zip(("frame", "row", "column"), token, (len(video), grid, grid), strict=True):
        if not 0 <= place < size:
            raise ValueError(f"{name} is {place}, expected 0 to {size - 1}")
    if not 0 <= layer < config.layers:
        raise ValueError(f"layer is {layer}, expected 0 to {config.layers - 1}")
    seen: list[SpatioTemporalGraph | Tensor] = []
    hook = model.graph.blocks[layer].graph_attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    try:
        model.encode_video(video[None].to(next(model.parameters()).device))
    finally:
        hook.remove()
    dense = seen[0] if isinstance(seen[0], Tensor) else seen[0].to_dense()
    node = token.frame * grid * grid + token.row * grid + token.column
    links = dense[0, node].float().cpu().view(len(video), grid, grid)
    distance = (torch.arange(len(video)) - token.frame).abs()
    links[distance > config.window] = torch.nan
    return links


def moving_token(frames: Tensor, grid: int) -> Token:
    """The patch that changes most from one frame to the next: a reference worth looking at.

    frames: (T, S, S, 3) uint8, S a multiple of `grid`. In a still clip it is the middle of the middle frame.
    """
    if len(frames) == 1 or not (frames[1:] != frames[:-1]).any():
        return Token(len(frames) // 2, grid // 2, grid // 2)
    change = (frames[1:].float() - frames[:-1].float()).abs().mean(-1)
    patches = torch.nn.functional.adaptive_avg_pool2d(change[:, None], grid)[:, 0]
    frame, row, column = (int(i) for i in torch.unravel_index(patches.argmax(), patches.shape))
    return Token(frame + 1, row, column)


def draw_links(frames: Tensor, links: Tensor, token: Token, out: Path, *, title: str = "") -> None:
    """Write a picture of a clip's frames in a row, the patches linked to the reference token tinted by edge weight.

    frames: (T, S, S, 3) uint8; links: (T, rows, columns) as `token_links` returns them; frames without any (NaN) are
    faded.
    """
    T, size = frames.shape[:2]
    figure = Figure(figsize=(1.7 * T + 0.8, 2.5), layout="constrained")
    axes = figure.subplots(1, T, squeeze=False)[0]
    scale = Normalize(0, 1)
    tint = None
    for t, axis in enumerate(axes):
        reachable = not links[t].isnan().all()
        axis.imshow(frames[t].numpy(), alpha=1.0 if reachable else 0.35)
        if reachable:
            shown = links[t].masked_fill(links[t] == 0, torch.nan).numpy()
            tint = axis.imshow(
                shown,
                extent=(-0.5, size - 0.5, size - 0.5, -0.5),
                cmap="plasma",
                norm=scale,
                alpha=0.55,
                interpolation="nearest",
            )
        if t == token.frame:
            patch = size / links.shape[1]
            corner = (token.column * patch - 0.5, token.row * patch - 0.5)
            axis.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor=REFERENCE, linewidth=2.5))
        axis.set_title(f"frame {t}", fontsize=9, color=REFERENCE if t == token.frame else "black")
        axis.set_axis_off()
    figure.colorbar(tint, ax=list(axes), shrink=0.8, label="edge weight")
    figure.suptitle(title or "patches that the marked token attends to", fontsize=10)
    write(figure, out)
