"""Time that a GPU takes for a call, without the host's share of it."""

import time

import torch

from benchmarks.timing import Functions, Timing, rounds_within

CLOCK = 2e9  # cycles per second, about


def queued_times(functions: Functions, seconds: float) -> dict[str, Timing]:
    """Time between CUDA events around each call, in turns, for about so many seconds; the L2 cache is cold.

    The GPU is kept spinning while the host launches, so that kernels run one after the other even where a launch takes
    longer than the kernel.
    """
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(4 * l2, dtype=torch.int8, device="cuda")
    rounds = rounds_within(functions, seconds)
    spin = {name: int(1.5 * CLOCK * host_seconds(function)) for name, function in functions.items()}
    events = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            torch.cuda._sleep(spin[name])
            start.record()
            function()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: Timing.of([a.elapsed_time(b) / 1e3 for a, b in pairs]) for name, pairs in events.items()}


def host_seconds(function, calls: int = 5) -> float:
    """What the host spends on a call; at most 20 ms, for longer ones wait for the GPU."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    spent = (time.perf_counter() - begin) / calls
    torch.cuda.synchronize()
    return min(spent, 0.02)
