"""A stand-in for the released CrossGraphTransformer: its attributes, its names of parameters, its dense arithmetic."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Residual(nn.Module):
    """Pre-norm attention and MLP, sequence first."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def residual(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))

    forward = residual


class GraphAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.d_model, self.d_k = heads, width, width // heads
        self.W_Q, self.W_K, self.W_V, self.W_O = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, graph_mask: Tensor) -> tuple[Tensor, None]:
        B, N, C = x.shape
        q, k, v = (W(x).view(B, N, self.num_heads, self.d_k).transpose(1, 2) for W in (self.W_Q, self.W_K, self.W_V))
        weights = graph_mask[:, None]
        scores = q @ k.transpose(-1, -2) / self.d_k**0.5 * weights
        attention = self.dropout(scores.masked_fill(weights == 0, float("-inf")).softmax(-1))
        return self.W_O((attention.to(v.dtype) @ v).transpose(1, 2).reshape(B, N, C)), None


class Block(Residual):
    """The released block. Its mask is made for one number of frames, so a clip of another length fails."""

    def __init__(self, width: int, heads: int, frames: int, patches: int, sim_th: float, dropout: float, window: int):
        super().__init__(width, heads)
        self.proj_fc = nn.Linear(width, width)
        self.message_attn = Residual(width, heads)
        self.graphattn = GraphAttention(width, heads, dropout)
        self.sim_th = sim_th
        frame = torch.arange(frames).repeat_interleave(patches)
        self.g_mask = ((frame[:, None] - frame[None, :]).abs() <= window).to(torch.int8)

    @torch.no_grad()
    def build_graph(self, x: Tensor, t: int) -> Tensor:
        unit = F.normalize(x, dim=-1)
        similarity = unit @ unit.transpose(1, 2)
        weights = torch.where(similarity >= self.sim_th, similarity, 0)
        return weights if t == 1 else weights * self.g_mask.to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        B, T, S, C = x.shape
        x = self.proj_fc(x)
        cls = x[:, :, 0].transpose(0, 1)  # (T, B, C)
        for _ in range(2):
            cls = self.message_attn(cls)
        local = x[:, :, 1:].reshape(B, T * (S - 1), C)
        local, _ = self.graphattn(local, graph_mask=self.build_graph(local, T))
        x = torch.cat([cls.transpose(0, 1)[:, :, None].to(local.dtype), local.view(B, T, S - 1, C)], 2)
        x = x.view(B * T, S, C).transpose(0, 1)  # a frame's tokens first
        return self.residual(x).transpose(0, 1).reshape(B, T, S, C)


class CrossGraphTransformer(nn.Module):
    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        frames: int,
        sim_th: float,
        *,
        grid: int = 16,
        dropout: float = 0.1,
        window: int = 1,
    ):
        super().__init__()
        self.pos_2D_embed = nn.Parameter(torch.randn(1 + grid**2, width) * 0.02, requires_grad=False)
        self.time_embed = nn.Parameter(torch.randn(frames, width) * 0.02)
        blocks = (Block(width, heads, frames, grid**2, sim_th, dropout, window) for _ in range(layers))
        self.resblocks = nn.Sequential(*blocks)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        time = F.interpolate(self.time_embed.T[None], size=T, mode="nearest")[0].T
        x = self.resblocks(x + self.pos_2D_embed + time[:, None])
        if T == 1:
            x = x[:, 0]
        else:
            side = round((x.shape[2] - 1) ** 0.5)
            patches = x[:, :, 1:].unflatten(2, (side, side))
            x = torch.cat([x[:, :, :1], patches.amax(2), patches.amax(3)], 2).flatten(1, 2)
        return self.ln_post(x) @ self.proj
