"""The baseline of the paper's ablations: X-CLIP's cross-frame communication and multi-frame integration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgt.models.transformer import MLP, DropPath, LayerNorm, ResidualAttentionBlock, attend
from stgt.weights.resize import nearest


class CrossFrameBlock(nn.Module):
    """One layer of communication and one of integration, in place of a graph block (X-CLIP, arXiv 2208.02816).

    Communication: the [CLS] token of each frame becomes a message. The messages attend to each other. Each then joins
    the tokens of its frame, which attend to each other. Integration: the [CLS] tokens attend across frames, with
    learned positions and a residual.
    """

    def __init__(self, width: int, heads: int, frames: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.message_fc = nn.Linear(width, width)
        self.message_ln = LayerNorm(width)
        self.message_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = LayerNorm(width)
        self.mlp = MLP(width)
        self.drop_path = DropPath(drop_path)
        self.frame_position = nn.Parameter(nn.init.trunc_normal_(torch.empty(frames, width), std=0.02))
        self.integration = ResidualAttentionBlock(width, heads, drop_path)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x: (B, T, 1+P, C), [CLS] first. Returns the same shape, and None, since there are no edges to count."""
        message = self.message_fc(x[:, :, 0])
        message = message + self.drop_path(attend(self.message_attn, self.message_ln(message)))
        joined = torch.cat([x, message[:, :, None].to(x.dtype)], 2)
        x = x + self.drop_path(attend(self.attn, self.ln_1(joined)))[:, :, :-1]
        x = x + self.drop_path(self.mlp(self.ln_2(x)))

        cls = x[:, :, 0]
        integrated = cls + self.integration(cls + nearest(self.frame_position, cls.shape[1]))
        return torch.cat([integrated[:, :, None].to(x.dtype), x[:, :, 1:]], 2), None
