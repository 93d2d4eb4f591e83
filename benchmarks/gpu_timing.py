"""Times the GPU's share of a call, without the host's share."""

import time

import torch

from benchmarks.timing import Functions, Timing, rounds_within

CLOCK = 2e9  # approximate cycles per second


def queued_times(functions: Functions, seconds: float) -> dict[str, Timing]:
    """Times functions in turns for about this many seconds, by CUDA events around each call and with a cold L2 cache.

    The GPU spins while the host launches a call's kernels. So the kernels run back to back even if a launch takes
    longer than its kernel.
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
    """Seconds that the host spends on a call, at most 0.02: a call that takes longer waits for the GPU."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    spent = (time.perf_counter() - begin) / calls
    torch.cuda.synchronize()
    return min(spent, 0.02)
