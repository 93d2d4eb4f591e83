"""The towers' own attention gives the results of timm's, open_clip's and PyTorch's."""

import copy

import pytest
import torch
from timm.layers import Mlp
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import Attention
from torch import nn
from torch.nn.utils import parametrize

from stgt.config import VisionConfig
from stgt.models.tower_layers import (
    PackedAttention,
    PackedEvaAttention,
    PackedMlp,
    PackedMultiheadAttention,
    use_kernels,
)
from stgt.models.vision import VisionTower
from stgt_kernels.ops.linear import functional as linear_functional

N, C, HEADS = 10, 24, 3


def eva(**switches):
    return EvaAttention(C, HEADS, norm_layer=nn.LayerNorm, **{"scale_norm": False} | switches)


LAYERS = {
    "timm": lambda: Attention(C, HEADS, qkv_bias=True),
    "timm, no bias": lambda: Attention(C, HEADS),
    "timm, norms": lambda: Attention(C, HEADS, qk_norm=True, norm_layer=nn.LayerNorm),
    "timm, scale norm and gate": lambda: Attention(C, HEADS, scale_norm=True, gated=True, norm_layer=nn.LayerNorm),
    "timm, scale norm": lambda: Attention(C, HEADS, scale_norm=True, norm_layer=nn.LayerNorm),
    "timm, smaller heads": lambda: Attention(C, HEADS, attn_head_dim=4),
    "EVA": eva,
    "EVA, scale norm": lambda: eva(scale_norm=True),
    "EVA, no bias": lambda: eva(qkv_bias=False),
    "EVA, three projections": lambda: eva(qkv_fused=False),
    "EVA, norms": lambda: eva(qk_norm=True),
    "EVA, separate bias": lambda: eva(qkv_bias_separate=True),
    "EVA, gate": lambda: eva(gated=True),
}


def randomised(layer):
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


def packed(layer):
    """A copy whose attention is our own."""
    holder = nn.Sequential(copy.deepcopy(layer))
    use_kernels(holder)
    return holder[0]


def assert_same(layer, other, call):
    """Fails unless two layers with the same weights give the same result and the same gradients."""
    x = torch.randn(2, N, C, dtype=torch.float64)
    found = []
    for one in (layer, other):
        inputs = [x.clone().requires_grad_(), *one.parameters()]
        out = call(one, inputs[0])
        found.append([out, *torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_timm_layers(name):
    layer = randomised(LAYERS[name]())
    other = packed(layer)
    unknown = "gate" in name or "three projections" in name
    assert type(other) in ((Attention, EvaAttention) if unknown else (PackedAttention, PackedEvaAttention))
    assert list(other.state_dict()) == list(layer.state_dict())
    assert_same(layer, other, lambda one, x: one(x))
    mask = torch.randn(2, 1, N, N, dtype=torch.float64)
    assert_same(layer, other, lambda one, x: one(x, attn_mask=mask))
    assert_same(layer, other, lambda one, x: one(x, is_causal=True))


def test_rotary_positions():
    model = Eva(img_size=32, patch_size=8, num_classes=0, embed_dim=C, depth=2, num_heads=HEADS, use_rot_pos_emb=True)
    model = randomised(model).eval()
    other = copy.deepcopy(model)
    use_kernels(other)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(other(images), model(images))


MODULES = [
    {},
    {"bias": False},
    {"dropout": 0.5},
    {"batch_first": False},
    {"add_bias_kv": True},
    {"kdim": 24, "vdim": 24},
]


@pytest.mark.parametrize("options", MODULES)
def test_pytorch_layers(options):
    layer = randomised(nn.MultiheadAttention(C, HEADS, **{"batch_first": True} | options)).eval()
    other = packed(layer)
    assert type(other) is PackedMultiheadAttention
    mask = torch.randn(N, N, dtype=torch.float64)
    if not layer.batch_first:
        mask = mask[:2, :2]  # the first dimension is the sequence
    assert_same(layer, other, lambda one, x: one(x, x, x, need_weights=False)[0])
    assert_same(layer, other, lambda one, x: one(x, x, x)[1])
    assert_same(layer, other, lambda one, x: one(x, x, x, None, False)[0])
    assert_same(layer, other, lambda one, x: one(x, x, x, need_weights=False, attn_mask=mask)[0])
    assert_same(layer, other, lambda one, x: one(x, x.flip(1), x, need_weights=False)[0])
    unmapped = torch.randn(N, C, dtype=torch.float64)
    torch.testing.assert_close(
        other(unmapped, unmapped, unmapped, need_weights=False)[0],
        layer(unmapped, unmapped, unmapped, need_weights=False)[0],
    )


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_adapters_of_a_layer_are_called():
    for layer, name in (
        (randomised(nn.MultiheadAttention(C, HEADS, batch_first=True)), "in_proj_weight"),
        (randomised(Attention(C, HEADS)), "qkv.weight"),
        (randomised(eva()), "qkv.weight"),
    ):
        other = packed(layer)
        *path, last = name.split(".")
        for one in (layer, other):
            parametrize.register_parametrization(one.get_submodule(".".join(path)), last, Double())
        call = (lambda one, x: one(x, x, x, need_weights=False)[0]) if not path else (lambda one, x: one(x))
        assert_same(layer, other, call)


class Adapted(nn.Module):
    """A layer with a further term, as an adapter puts in its place."""

    def __init__(self, base):
        super().__init__()
        self.base, self.weight = base, base.weight
        self.term = nn.Parameter(torch.randn_like(base.weight))

    def forward(self, x):
        return self.base(x) + x @ self.term.T


@pytest.mark.parametrize("name", ["timm", "timm, no bias", "EVA", "EVA, no bias", "EVA, separate bias"])
def test_layers_in_place_of_projections_are_called(name):
    layer = packed(randomised(LAYERS[name]()))
    merged = copy.deepcopy(layer)
    for projection in ("qkv", "proj"):
        adapted = Adapted(layer.get_submodule(projection)).double()
        setattr(layer, projection, adapted)
        merged.get_submodule(projection).weight.data += adapted.term.data
    x = torch.randn(2, N, C, dtype=torch.float64)
    torch.testing.assert_close(layer(x), merged(x))
    layer(x).square().sum().backward()
    assert layer.qkv.term.grad.any() and layer.proj.term.grad.any()


@pytest.mark.parametrize("make", [LAYERS["timm"], eva, lambda: Mlp(C, 2 * C)])
def test_layers_with_other_parts_are_left_to_timm(make):
    newer, older = make(), make()
    newer.smoothing = nn.Conv1d(C, C, 3)
    del older.norm
    assert [type(packed(layer)) for layer in (newer, older)] == [type(newer), type(older)]


def test_dropout_is_timms():
    layer = randomised(Attention(C, HEADS, attn_drop=0.5)).train()
    other, x = packed(layer), torch.randn(2, N, C, dtype=torch.float64)
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit", PackedEvaAttention),
        ("ViT-B-32", PackedMultiheadAttention),
        ("EVA02-B-16", EvaAttention),  # it has three projections
        ("ViT-B-16-SigLIP", PackedAttention),
    ],
)
def test_towers_use_them(name, kind):
    sizes = dict(image_size=32, patch_size=8, width=24, heads=3) if name == "vit" else {}
    tower = VisionTower(VisionConfig(tower=name, layers=1, **sizes))
    found = [
        module for module in tower.modules() if isinstance(module, (EvaAttention, Attention, nn.MultiheadAttention))
    ]
    assert {type(module) for module in found} == {kind}
    copied = copy.deepcopy(tower)
    assert {type(module) for module in copied.modules()} == {type(module) for module in tower.modules()}


def test_a_traced_tower_consists_of_operations_of_pytorch(monkeypatch):
    monkeypatch.setattr(linear_functional, "LEAST_WORK", 0)
    tower = VisionTower(VisionConfig(tower="vit", layers=1, image_size=32, patch_size=8, width=24, heads=3)).tower
    images = torch.randn(2, 3, 32, 32)
    traced = torch.jit.trace(tower.float(), images)
    assert "stgt_kernels::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(images[:1]), tower(images[:1]))


@pytest.mark.parametrize("make", [LAYERS["timm"], eva, lambda: Mlp(C, 2 * C)])
def test_torch_fx_traces_timms_layers(make):
    layer = nn.Sequential(packed(randomised(make()))).eval()
    traced, x = torch.fx.symbolic_trace(layer), torch.randn(2, N, C, dtype=torch.float64)
    torch.testing.assert_close(traced(x), layer(x))


def test_nested_tensors_are_pytorchs():
    layer = randomised(nn.MultiheadAttention(C, 2, batch_first=True)).eval()
    nested = torch.nested.nested_tensor([torch.randn(n, C, dtype=torch.float64) for n in (3, 5)])
    with torch.no_grad():
        found, expected = (one(nested, nested, nested, need_weights=False)[0] for one in (packed(layer), layer))
    for a, b in zip(found.unbind(), expected.unbind(), strict=True):
        torch.testing.assert_close(a, b)


def test_other_modules_stay_as_they_are():
    tower = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    use_kernels(tower)
    assert [type(module) for module in tower] == [nn.LayerNorm, nn.Linear]


@pytest.mark.parametrize("options", [{}, {"norm_layer": nn.LayerNorm}, {"bias": False}, {"use_conv": True}])
def test_two_linear_layers(options):
    layer = randomised(Mlp(C, 2 * C, **options))
    x = torch.randn(2, C, 5, 5, dtype=torch.float64) if options.get("use_conv") else None
    assert type(packed(layer)) is PackedMlp
    assert_same(layer, packed(layer), lambda one, tokens: one(tokens if x is None else x + 0 * tokens.sum()))
