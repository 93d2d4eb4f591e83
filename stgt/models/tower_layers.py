"""The layers of vision towers, which are those of timm and open_clip, on the kernels of stgt_kernels.

On CPUs these are faster than what the libraries call, and they give the same result. This module imports timm, which is
slow.
"""

from __future__ import annotations

import torch
from timm.layers import Mlp
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from stgt.models.transformer import self_attention
from stgt_kernels import linear, packed_attention
from stgt_kernels.plain import is_plain, project


def use_kernels(tower: nn.Module) -> None:
    """Lets the layers of a tower that are of a known class, with known parts, compute with our kernels.

    Their weights and the names of these stay the same. A layer with other parts, such as a gate, is left as it is.
    """
    for module in tower.modules():
        packed, parts = _PACKED.get(type(module), (None, None))
        if packed is not None and parts == {name for name, _ in module.named_children()}:
            module.__class__ = packed


class PackedAttention(Attention):
    """timm's attention of ViT. What it does beside plain attention is left to timm."""

    def forward(self, x: Tensor, *args, **options) -> Tensor:
        """x: (B, N, C). Returns (B, N, C). Other arguments are those of timm."""
        if not _plain(self, x, args, options):
            return super().forward(x, *args, **options)
        return _attend(self, project(self.qkv, x))


class PackedEvaAttention(EvaAttention):
    """timm's attention of EVA, which keeps the biases of queries and values beside the layer."""

    def forward(self, x: Tensor, *args, **options) -> Tensor:
        """x: (B, N, C). Returns (B, N, C). Other arguments are those of timm."""
        if not _plain(self, x, args, options):
            return super().forward(x, *args, **options)
        if self.q_bias is None:
            return _attend(self, project(self.qkv, x))
        bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        if is_plain(self.qkv):
            return _attend(self, linear(x, self.qkv.weight, bias))
        qkv = self.qkv(x)  # timm would read its weight alone, without an adapter
        return _attend(self, qkv + bias.to(qkv.dtype))


class PackedMultiheadAttention(nn.MultiheadAttention):
    """PyTorch's attention, as open_clip's blocks call it."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args, **options):
        """query, key, value: (B, N, C). Other arguments and the result are those of PyTorch."""
        itself = query is key and key is value and query.ndim == 3 and self.batch_first and not query.is_nested
        others = {name: value for name, value in options.items() if name != "need_weights"}
        weights = options.get("need_weights", True)
        if weights or not itself or args or _asked(others) or not self._plain():
            return super().forward(query, key, value, *args, **options)
        return self_attention(self, query), None

    def _plain(self) -> bool:
        """Whether it computes with its weights alone. A parametrization changes its class."""
        more = self.bias_k is not None or self.add_zero_attn or self.in_proj_weight is None
        return type(self) is PackedMultiheadAttention and not more and not (self.training and self.dropout > 0)


class PackedMlp(Mlp):
    """timm's two linear layers with an activation between them."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C). Returns (B, N, C)."""
        hidden = self.norm(self.drop1(self.act(project(self.fc1, x))))
        return self.drop2(project(self.fc2, hidden))


_ATTENTION = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}
_PACKED = {
    Mlp: (PackedMlp, {"fc1", "act", "drop1", "norm", "fc2", "drop2"}),
    Attention: (PackedAttention, _ATTENTION),
    EvaAttention: (PackedEvaAttention, _ATTENTION),
    nn.MultiheadAttention: (PackedMultiheadAttention, {"out_proj"}),
}
"""The classes in place of others, and the parts that they know. Other versions of timm may have more or fewer."""


def _attend(layer: Attention | EvaAttention, qkv: Tensor) -> Tensor:
    """The rest of the layer after its projection qkv (B, N, 3·H·D)."""
    heads = packed_attention(qkv.unflatten(-1, (3, layer.num_heads, -1)))
    return layer.proj_drop(project(layer.proj, layer.norm(heads.flatten(2))))


def _plain(layer: Attention | EvaAttention, x: Tensor, args: tuple, options: dict) -> bool:
    """Whether the layer is plain attention of a tensor, without a mask and rotary positions.

    torch.fx traces with an x that is no tensor.
    """
    normed = not isinstance(layer.q_norm, nn.Identity) or not isinstance(layer.k_norm, nn.Identity)
    dropped = layer.training and layer.attn_drop.p > 0
    if normed or dropped or not layer.fused_attn or not isinstance(x, Tensor):
        return False
    return not any(arg is not None for arg in args) and not _asked(options)


def _asked(options: dict) -> bool:
    """Whether an option asks for more than plain attention, such as a mask."""
    return any(value is not None and value is not False for value in options.values())
