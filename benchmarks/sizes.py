"""The sizes that the questions use."""

from dataclasses import replace

from benchmarks.inputs import Problem


def base(device: str, quick: bool) -> Problem:
    """The paper's shape: a batch of 20 in bf16 on a GPU, or one sample in fp32 on a CPU. quick: a small shape."""
    dtype = "bf16" if device == "cuda" else "fp32"
    if quick:
        return Problem(T=4, P=64, C=384, H=4, dtype=dtype)
    return Problem(B=20 if device == "cuda" else 1, dtype=dtype)


def both_dtypes(problem: Problem) -> list[Problem]:
    return [replace(problem, dtype=dtype) for dtype in ("fp32", "bf16")]
