"""The checks of the ops' arguments that are tensors. Each error names the op, the argument and what came."""

import torch
from torch import Tensor, nn

from stgt_kernels import dispatch


def in_autocast_dtype(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in autocast's dtype if it is on. It does not change float64."""
    dtype = dispatch.autocast_dtype(q.device)
    if dtype is not None and all(t.dtype in dispatch.FLOAT_DTYPES for t in (q, k, v)):
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    return q, k, v


def check_operands(op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises ValueError unless all are dense, with q's shape, device and dtype, which has to be one of the ops."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_dense(op, name, tensor)
    for name, tensor in (("k", k), ("v", v)):
        if tensor.shape != q.shape:
            raise ValueError(f"{op}: {name} must have q's shape {tuple(q.shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != q.dtype:
            raise ValueError(f"{op}: {name} must have q's dtype {q.dtype}, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{op}: {name} must be on q's device {q.device}, got {tensor.device}")
    check_dtype(op, "q", q)


def check_dense(op: str, name: str, tensor: Tensor) -> None:
    """Raises ValueError for a sparse or nested tensor, and for one in a layout that only a library knows."""
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "a nested tensor" if tensor.is_nested else f"a tensor in the layout {tensor.layout}"
        raise ValueError(f"{op}: {name} must be a dense tensor, got {layout}")


def check_dtype(op: str, name: str, tensor: Tensor) -> None:
    """Raises ValueError unless the tensor has a dtype of the ops."""
    if tensor.dtype not in (*dispatch.FLOAT_DTYPES, torch.float64):
        raise ValueError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")


def eager_on_cpu(*tensors: Tensor, dtypes: tuple[torch.dtype, ...]) -> bool:
    """Whether an op that is PyTorch's own elsewhere runs on its kernels for CPUs.

    They compute plain, dense tensors of these dtypes outside of autocast, torch.compile, torch.jit.trace, torch.func
    and forward-mode derivatives, unless another backend was asked for. Dispatch modes get PyTorch's own operators,
    since some of them count or replace what they know, as FlopCounterMode and FakeTensorMode do. Ask this before any
    question about sizes, for torch.export would limit its programs to the sizes for which the answer is the same.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._len_torch_dispatch_stack():
        return False
    if any(type(t) not in (Tensor, nn.Parameter) or t.layout != torch.strided or t.is_nested for t in tensors):
        return False
    first = tensors[0]
    if first.dtype not in dtypes or any(t.device.type != "cpu" or t.dtype != first.dtype for t in tensors):
        return False
    if torch._C._are_functorch_transforms_active() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return False
    return dispatch.cpu_kernels_wanted()
