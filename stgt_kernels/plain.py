"""Tells layers whose weights can be used directly from layers that others have put in their place."""

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from stgt_kernels.ops.linear.functional import linear

# MultiheadAttention's output is a class of its own.
_PLAIN = (nn.Linear, NonDynamicallyQuantizableLinear, nn.MultiheadAttention, nn.Embedding)


def is_plain(*layers: nn.Module) -> bool:
    """Whether these layers are of PyTorch's own classes, which compute with their weights alone.

    Adapters (LoRA), parametrizations, quantization and FSDP put other classes in their place, which have to be called.
    So do layers whose weights wrap other tensors, as torchao's quantized ones do, which may know no function
    but the layer's. And so do layers with hooks, all layers while there are hooks of all modules, as profilers have,
    and layers whose method `forward` was replaced, as Accelerate does.
    """
    return not _has_any_global_hook() and all(
        type(layer) in _PLAIN
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in vars(layer)
        and not any(is_traceable_wrapper_subclass(weight) for weight in layer._parameters.values())
        for layer in layers
    )


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) for a linear layer, computed by `linear` if it is plain. x: (…, K). Returns (…, N).

    torch.fx traces with an x that is no tensor. Its graph has the layer.
    """
    return linear(x, layer.weight, layer.bias) if isinstance(x, Tensor) and is_plain(layer) else layer(x)
