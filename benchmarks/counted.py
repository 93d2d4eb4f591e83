"""python -m benchmarks.counted: compares counts of work with earlier counts. It uses no clock, so CI can run it.

It counts FLOPs, operators, the bytes that they move, allocations, the peak of live bytes, and Triton's kernel launches.
The exit code is 1 if any count is higher than in counted.json. --update writes counted.json anew.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.agreement import forward_backward
from benchmarks.inputs import AttentionInputs, Problem, real_tokens
from benchmarks.models import as_released, with_cls
from stgt.markdown import table
from stgt.models.graph_transformer import GraphTransformer
from stgt.paper.flops import count_flops
from stgt.paper.sizes import model_config
from stgt_kernels import graph_attention, spatio_temporal_graph
from stgt_kernels.ops.graph_attention.function import GraphAttentionFunction
from stgt_kernels.ops.spatio_temporal_graph.function import SpatioTemporalGraphFunction

COUNTED = Path(__file__).parent / "results" / "counted.json"
PROBLEM = Problem(B=2, T=4, P=64, C=384, H=4)
Counts = dict[str, dict[str, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.counted", description=__doc__)
    p.add_argument("--update", action="store_true", help="write the new counts to counted.json")
    p.add_argument("--file", type=Path, default=COUNTED)
    options = p.parse_args(arguments)
    torch.set_num_threads(1)
    now = count()
    if options.update:
        options.file.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(options.file.read_text())
    more = [
        f"{what}: {counts[name]} {name}, there were {before[what][name]}"
        for what, counts in now.items()
        for name in counts.keys() & before.get(what, {}).keys()
        if counts[name] > before[what][name]
    ]
    columns = list(dict.fromkeys(name for counts in now.values() for name in counts))
    print(table(["", *columns], [[what, *(str(c.get(name, "")) for name in columns)] for what, c in now.items()]))
    print("\n".join(["", "More than before:", *more] if more else ["", "No count is higher than before"]))
    return 1 if more else 0


def count() -> Counts:
    """Counts for small problems. The counts of larger ones follow, since they grow with the size in known ways."""
    inputs, x = AttentionInputs.make(PROBLEM), real_tokens(PROBLEM.B, PROBLEM.T, PROBLEM.P, PROBLEM.C)
    config = model_config("quickstart")
    sizes = config.vision.sizes
    layer = GraphTransformer(config.graph, sizes.width, sizes.grid)
    tokens = with_cls(real_tokens(2, 4, sizes.grid**2, sizes.width))

    def released() -> None:
        with as_released(layer, 4, torch.device("cpu")):
            layer(tokens)[0].sum().backward()

    functions = {
        "spatio_temporal_graph": partial(spatio_temporal_graph, x, threshold=PROBLEM.threshold),
        "graph_attention, forward": partial(graph_attention, inputs.q, inputs.k, inputs.v, inputs.graph),
        "graph_attention, forward and backward": partial(
            forward_backward, partial(graph_attention, graph=inputs.graph), *inputs.tensors
        ),
        "graph transformer, forward and backward": lambda: layer(tokens)[0].sum().backward(),
        "graph transformer as released, forward and backward": released,
    }
    counts = {}
    for what, function in functions.items():
        function()  # the work of the first call alone is not counted
        layer.zero_grad(set_to_none=True)
        counts[what] = {"FLOPs": count_flops(function), **operators(function), **memory(function)}
    return counts | triton_launches(inputs, x)


def operators(function: Callable[[], object]) -> dict[str, int]:
    """The number of operators that reach a device, and the bytes of the tensors that they read and write."""

    class Counter(TorchDispatchMode):
        operators, moved = 0, 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            out = op(*args, **(kwargs or {}))
            if not op.is_view:
                self.operators += 1
                tensors = torch.utils._pytree.tree_leaves((args, kwargs, out))
                self.moved += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
            return out

    with Counter() as counter:
        function()
    return {"operators": counter.operators, "bytes moved": counter.moved}


def memory(function: Callable[[], object]) -> dict[str, int]:
    """The number of torch's allocations, and the peak of the bytes that are allocated at the same time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return {"allocations": sum(event.nbytes() > 0 for event in events), "peak bytes": peak}


def triton_launches(inputs: AttentionInputs, x: Tensor) -> Counts:
    """How many kernels the ops launch on Triton. The launches are only recorded, and no kernel runs."""
    q, k, v = (t.detach().requires_grad_() for t in (inputs.q, inputs.k, inputs.v))
    weight = inputs.graph.weight.clone().requires_grad_()
    counts = {}
    with launches() as names:
        SpatioTemporalGraphFunction.apply(x, PROBLEM.threshold, PROBLEM.window, False, "triton")
        counts["spatio_temporal_graph, forward, Triton"] = {"launches": len(names)}
    for what, leaves in (("backward", [q, k, v]), ("backward to the weights, too", [q, k, v, weight])):
        with launches() as names:
            on = weight if len(leaves) > 3 else weight.detach()
            out, _ = GraphAttentionFunction.apply(q, k, v, on, inputs.graph.live, None, 1.0, 0.0, "triton")
            counts["graph_attention, forward, Triton"] = {"launches": len(names)}
            names.clear()
            torch.autograd.grad(out, leaves, inputs.dout)
            counts[f"graph_attention, {what}, Triton"] = {"launches": len(names)}
    return counts


@contextmanager
def launches() -> Iterator[list[str]]:
    """Within the block, Triton's launches are recorded and not run. Yields the list of the kernels' names."""
    import triton

    names: list[str] = []

    def run(kernel: object, *args: object, **options: object) -> None:
        names.append(kernel.fn.__name__)

    with mock.patch.object(triton.runtime.jit.JITFunction, "run", run):
        yield names


if __name__ == "__main__":
    sys.exit(main())
