"""Layers that others put in place of the network's linear ones, as LoRA does, are called and trained."""

import copy

import torch
from helpers.tiny import in_float64, tiny_batch, tiny_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from stgt.models.transformer import attend


class Adapted(nn.Module):
    """A frozen linear layer with a trained term, as in LoRA."""

    def __init__(self, base):
        super().__init__()
        self.base, self.term = base, nn.Parameter(0.1 * torch.randn_like(base.weight))

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + x @ self.term.T


def adapt(model):
    """Replace the linear layers of the graph transformer and the Q-Former. Returns the new layers by their names."""
    adapted = {}
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name.startswith(("graph.", "qformer.")):
            parent, _, child = name.rpartition(".")
            adapted[name] = Adapted(layer.requires_grad_(False))
            setattr(model.get_submodule(parent), child, adapted[name])
    return adapted


def outputs(model, batch):
    video = model.encode_video(batch["video"])
    text = batch["input_ids"], batch["attention_mask"]
    return [video.queries, model.encode_text(*text), model.match(video.embeds, *text)] + [
        model.generate_logits(video.embeds, *text)
    ]


def test_every_adapter_counts_and_learns():
    """The outputs are those of a model whose weights hold the terms. Float64's rounding is 1e-16 of a number."""
    model, batch = tiny_model().eval(), tiny_batch()
    with in_float64(model):
        merged, batch = copy.deepcopy(model), batch | {"video": batch["video"].double()}
        adapted = adapt(model)
        assert {name.rpartition(".")[2] for name in adapted} >= {"q_proj", "c_fc", "c_proj", "key", "value", "query"}
        with torch.no_grad():
            for name, layer in adapted.items():
                merged.get_submodule(name).weight += layer.term
        actual, expected = outputs(model, batch), outputs(merged, batch)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
        sum(out.square().sum() for out in actual).backward()
    assert [name for name, layer in adapted.items() if layer.term.grad is None] == []


def test_attention_of_another_class_is_called():
    class Doubled(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            out, weights = super().forward(*args, **kwargs)
            return 2 * out, weights

    attn, x = Doubled(8, 2, batch_first=True).double(), torch.randn(3, 2, 5, 8, dtype=torch.float64)
    plain = nn.MultiheadAttention(8, 2, batch_first=True).double()
    plain.load_state_dict(attn.state_dict())
    torch.testing.assert_close(attend(attn, x), 2 * attend(plain, x), rtol=0, atol=1e-13)


def test_hooks_of_all_modules_see_every_layer():
    """Profilers and counters of operations have such hooks."""
    model, batch, seen = tiny_model(vision=dict(open_blocks=-1)).eval(), tiny_batch(), set()
    with register_module_forward_hook(lambda module, given, result: seen.add(module)):
        outputs(model, batch)
    unseen = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and layer not in seen]
    assert unseen == []
