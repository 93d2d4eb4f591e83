"""8. How does the cost depend on the density: the threshold on real tokens, and noise in place of real tokens?

Real tokens leave an edge in nearly every tile at any threshold, so attention does the work of a dense band.
Gaussian noise leaves only self-loops, so a kernel that skips empty tiles looks far faster than it is on video.
"""

from dataclasses import replace

from benchmarks.case import Case
from benchmarks.comparison import attention_case
from benchmarks.inputs import Problem
from benchmarks.providers import BAND, DENSE, KERNELS
from benchmarks.sizes import base


def cases(device: str, quick: bool) -> list[Case]:
    thresholds = (0.0, 0.5, 0.9) if quick else tuple(step / 10 for step in range(10))
    usual = base(device, quick)
    problems = [replace(usual, threshold=threshold) for threshold in thresholds]
    return [case(problem) for problem in (*problems, replace(usual, tokens="noise"))]


def case(problem: Problem) -> Case:
    everyone = (DENSE, BAND, *KERNELS)  # DENSE and BAND take the same time at every threshold
    providers = everyone if problem.threshold == 0.5 else KERNELS
    name = f"{problem.tokens} tokens, h={problem.threshold:g}, {problem.dtype}"
    return attention_case(problem, providers, backward=False, name=name)
