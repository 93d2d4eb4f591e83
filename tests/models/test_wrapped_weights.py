"""Weights that are wrappers of other tensors, as torchao's quantized ones, which know no function but the layer's."""

import torch
import torch.nn.functional as F
from helpers.tiny import tiny_batch, tiny_model
from torch import Tensor, nn


class Halved(Tensor):
    """A weight whose half is stored."""

    @staticmethod
    def __new__(cls, half):
        return Tensor._make_wrapper_subclass(cls, half.shape, dtype=half.dtype)

    def __init__(self, half):
        self.half_of_it = half

    def __tensor_flatten__(self):
        return ["half_of_it"], None

    @staticmethod
    def __tensor_unflatten__(tensors, meta, size, stride):
        return Halved(tensors["half_of_it"])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight, bias = args
            return F.linear(x, 2 * weight.half_of_it, bias)
        return super().__torch_function__(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return Halved(args[0].half_of_it)
        raise NotImplementedError(f"{function} of a weight")


@torch.no_grad()
def test_layers_with_such_weights_are_called():
    model, batch = tiny_model().eval(), tiny_batch()

    def outputs():
        words = batch["input_ids"], batch["attention_mask"]
        return model.encode_video(batch["video"]).queries, model.encode_text(*words)

    expected = outputs()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(Halved(layer.weight / 2), requires_grad=False)
    torch.testing.assert_close(outputs(), expected, rtol=1e-4, atol=1e-5)
