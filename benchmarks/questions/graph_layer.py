"""4. How fast is the whole graph-transformer layer, forward and backward, with its MLPs and projections?"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.agreement import check_model
from benchmarks.case import Bench, Case
from benchmarks.inputs import DTYPES, real_tokens
from benchmarks.memory import peak_memory
from benchmarks.models import as_released, with_cls
from benchmarks.providers import KERNELS
from benchmarks.rows import Row
from stgt.models.graph_transformer import GraphTransformer
from stgt.paper.sizes import model_config
from stgt_kernels import dispatch


def cases(device: str, quick: bool) -> list[Case]:
    size = "quickstart" if quick else "ViT-g"
    B, T, dtype = (20, 8, "bf16") if device == "cuda" else (4 if quick else 1, 8, "fp32")
    compute = partial(compare, size=size, B=B, T=T, dtype=dtype)
    return [Case(f"width of {size}, B={B} T={T} {dtype}", compute)]


def compare(bench: Bench, *, size: str, B: int, T: int, dtype: str) -> list[Row]:
    config, device = model_config(size), bench.device
    sizes = config.vision.sizes
    C, P = sizes.width, sizes.grid**2
    torch.manual_seed(0)
    layer = GraphTransformer(config.graph, C, sizes.grid).to(device).train()
    x = with_cls(real_tokens(B, T, P, C, device=device))
    shape = dict(B=B, T=T, P=P, C=C, H=config.graph.heads, D=C // config.graph.heads, window=1, threshold=0.5)

    released = partial(all_as_released, layer, T, device)
    contexts = {"released model": (released, False), "released model, compiled": (released, True)}
    for provider in KERNELS:
        use = partial(dispatch.use_backend, provider.backend)
        contexts |= {provider.name: (use, False), f"{provider.name}, compiled": (use, True)}
    reasons = {provider.name: dispatch.why_not(provider.backend, device, DTYPES[dtype]) for provider in KERNELS}

    steps, memory, rows, expected = {}, {}, [], None
    for name, (context, compiled) in contexts.items():
        reason = reasons.get(name.removesuffix(", compiled"))
        reason = reason or ("left out by --quick: it takes long to compile" if compiled and bench.quick else None)
        if reason:
            rows.append(Row(name, dtype, shape, missing=reason))
            continue
        module = torch.compile(layer, dynamic=False) if compiled else layer
        out = outputs(layer, context, x, dtype)
        expected = out if expected is None else expected
        check_model(name, out, expected, dtype)
        steps[name] = partial(forward_backward, module, context, x, torch.ones_like(out), dtype)
        steps[name]()
        memory[name] = peak_memory(steps[name], device)
    times = bench.measure(steps, bench.seconds)
    return rows + [Row.timed(name, dtype, shape, times[name], peak_memory=memory[name]) for name in steps]


@contextmanager
def all_as_released(layer: GraphTransformer, frames: int, device: torch.device) -> Iterator[None]:
    """Within the block, the layer computes as the released model does, and PyTorch computes all its linear layers."""
    with as_released(layer, frames, device), dispatch.use_backend("reference"):
        yield


Context = Callable[[], AbstractContextManager]


@torch.no_grad()
def outputs(layer: nn.Module, context: Context, x: Tensor, dtype: str) -> Tensor:
    """The layer's output without dropout, so that outputs can be compared."""
    layer.eval()
    with context(), torch.autocast(x.device.type, DTYPES[dtype], enabled=dtype != "fp32"):
        out, _ = layer(x)
    layer.train()
    return out


def forward_backward(layer: nn.Module, context: Context, x: Tensor, dout: Tensor, dtype: str) -> None:
    with context():
        with torch.autocast(x.device.type, DTYPES[dtype], enabled=dtype != "fp32"):
            out, _ = layer(x)
        out.backward(dout.to(out.dtype))
    layer.zero_grad(set_to_none=True)
