"""The claims about the kernels: ratios of rows, each with the bound that it has to meet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.inputs import Problem
from benchmarks.questions import decoding, edge_attention, layers
from benchmarks.ragged import BATCHES
from benchmarks.rows import Row
from benchmarks.tables import number, spoken
from stgt.markdown import table

HEADER = ("", "dtype", "against", "value", "bound", "met")


class Found:
    """The rows of a run by question, case and provider. Lookups raise LookupError if a row or its time is missing."""

    def __init__(self, rows: list[Row], about: dict[str, Any]) -> None:
        self.rows, self.limits = {row.key: row for row in rows}, about["limits"]

    def row(self, question: str, case: object, provider: str) -> Row:
        row = self.rows[question, str(case), provider]
        if row.median is None:
            raise LookupError(f"{question}, {case}, {provider}: {row.missing}")
        return row

    def seconds(self, question: str, case: object, provider: str) -> float:
        return self.row(question, case, provider).median


@dataclass(frozen=True)
class Claim:
    what: str
    dtype: str
    against: str
    value: Callable[[Found], float]
    at_least: float | None = None
    at_most: float | None = None

    def line(self, value: float) -> list[str]:
        least = self.at_least is not None
        bound = f">= {self.at_least:g}" if least else f"<= {self.at_most:g}"
        met = value >= self.at_least if least else value <= self.at_most
        return [self.what, self.dtype, self.against, number(value), bound, "yes" if met else "NO"]


def claims(about: dict[str, Any]) -> list[Claim]:
    """The claims for the kind of machine (CPU or GPU) that an environment describes."""
    return cpu_claims() if "threads" in about else [*gpu_claims(), *model_claims()]


def claims_table(rows: list[Row], about: dict[str, Any]) -> str:
    """The claims that these rows can decide."""
    found, lines = Found(rows, about), []
    for claim in claims(about):
        try:
            lines.append(claim.line(claim.value(found)))
        except LookupError:
            continue
    return table(HEADER, lines) if lines else ""


def faster(question: str, problem: Problem, ours: str, than: str, at_least: float, what: str = "") -> Claim:
    """A claim of how many times faster one provider is than another in one case, in which the two took turns."""

    def value(found: Found) -> float:
        return found.seconds(question, problem, than) / found.seconds(question, problem, ours)

    return Claim(what or spoken(question), problem.dtype, than, value, at_least)


def cpu_claims() -> list[Claim]:
    """Claims for one sample at the paper's shape."""
    fp32, bf16 = Problem(), Problem(dtype="bf16")
    ours, both, turns = "stgt_kernels cpu", "attention_forward_backward", f"{Problem(T=64)} and T=8 in turns"
    name = spoken(both)
    return [
        faster("graph_construction", fp32, ours, "eager dense", 2.5),
        faster("attention_forward", fp32, ours, "eager dense", 9),
        faster("attention_forward", fp32, ours, "FlexAttention", 1.4),
        Claim(
            "attention forward",
            "fp32",
            "rate of torch's SGEMM",
            lambda found: found.row("attention_forward", fp32, ours).tflops * 1e12 / found.limits["gemm"]["fp32"],
            at_least=0.55,
        ),
        faster(both, fp32, ours, "eager dense", 8),
        Claim(name, "bf16", "fp32", lambda found: found.seconds(both, fp32, ours) / found.seconds(both, bf16, ours), 1),
        Claim(
            f"{name}, T=64",
            "fp32",
            "T=8",
            lambda found: (
                found.seconds("frames", turns, f"{ours}, T=64") / found.seconds("frames", turns, f"{ours}, T=8")
            ),
            at_most=9.5,
        ),
        Claim(
            f"{name}, T=64",
            "fp32",
            "memory with the graph, GiB",
            lambda found: found.row("frames", turns, f"{ours}, T=64").peak_memory / 2**30,
            at_most=4,
        ),
        *edge_claims(),
        *decoding_claims(),
        *layer_claims(),
    ]


def edge_claims() -> list[Claim]:
    """Claims for attention over the edges of scene graphs on one thread: against the formula of TransformerConv, padded
    SDPA and padded graph_attention.
    """
    rivals = (edge_attention.CONV, edge_attention.SDPA, edge_attention.BANDED)
    bounds = ((3, 2, 1.5), (8, 4, 3), (12, 8, 5))

    def claim(case: str, than: str, at_least: float) -> Claim:
        def value(found: Found) -> float:
            kernel = edge_attention.ours("cpu")
            return found.seconds("edge_attention", case, than) / found.seconds("edge_attention", case, kernel)

        return Claim(f"edge attention, {case}", "fp32", than, value, at_least)

    return [
        claim(batch.name, than, at_least)
        for batch, least in zip(BATCHES, bounds, strict=True)
        for than, at_least in zip(rivals, least, strict=True)
    ]


def decoding_claims() -> list[Claim]:
    """Claims for reading 8 frames of a file on one thread."""

    def times(case: str, ours: str, theirs: str) -> Callable[[Found], float]:
        return lambda found: found.seconds("decoding", case, ours) / found.seconds("decoding", case, theirs)

    clips = [case.name for case in decoding.cases("cpu", quick=False) if case.name != decoding.LONG]
    return [
        *(
            Claim(clip, "uint8", "decord's time", times(clip, decoding.OURS, decoding.DECORD), at_most=1.2)
            for clip in clips
        ),
        Claim(decoding.LONG, "uint8", "the clip's time", times(decoding.LONG, decoding.FILM, decoding.CLIP), at_most=3),
    ]


def layer_claims() -> list[Claim]:
    """Claims for dense attention and linear layers, forward and backward.

    Large layers are PyTorch's own on CPUs of Intel. So the claim for them is only that they are not slower.
    """

    def claim(case: str, at_least: float) -> Claim:
        def value(found: Found) -> float:
            return found.seconds("layers", case, layers.PYTORCH) / found.seconds("layers", case, layers.OURS)

        return Claim(case, "fp32", layers.PYTORCH, value, at_least)

    return [
        *(claim(layers.attention_case_name(name), 1.2) for name in layers.ATTENTION),
        *(claim(layers.linear_case_name(name), 1.05) for name in layers.LINEAR),
        *(claim(layers.linear_case_name(name), 0.95) for name in layers.LARGE_LINEAR),
    ]


def gpu_claims() -> list[Claim]:
    """Claims for the paper's shape with its batch of 20 on an H200."""
    paper, long = Problem(B=20, dtype="bf16"), Problem(B=4, T=64, dtype="bf16")
    ours, forward, both = "stgt_kernels cuda", "attention_forward", "attention_forward_backward"
    flex = ("FlexAttention", "FlexAttention, banded weights", "FlexAttention, max-autotune")

    def best_flex(found: Found) -> float:
        rows = [found.rows.get((both, str(paper), name)) for name in flex]
        times = [row.median for row in rows if row and row.median]
        if not times:
            raise LookupError("FlexAttention")
        return min(times)

    def rate(found: Found, problem: Problem) -> float:
        return found.row("frames", problem, ours).tflops

    def memory(found: Found, provider: str) -> float:
        return found.row(both, paper, provider).peak_memory

    def claim(what: str, against: str, value: Callable[[Found], float], *bounds: float | None) -> Claim:
        return Claim(what, "bf16", against, value, *bounds)

    return [
        claim("graph construction", "ms", lambda f: 1e3 * f.seconds("graph_construction", paper, ours), None, 0.14),
        claim("attention forward", "ms", lambda f: 1e3 * f.seconds(forward, paper, ours), None, 0.35),
        claim(
            "attention backward",
            "ms",
            lambda f: 1e3 * (f.seconds(both, paper, ours) - f.seconds(forward, paper, ours)),
            None,
            1.2,
        ),
        claim(
            "attention forward backward", "best FlexAttention", lambda f: best_flex(f) / f.seconds(both, paper, ours), 2
        ),
        faster(both, paper, ours, "eager dense", 30),
        faster(both, paper, ours, "compiled dense", 10),
        claim(
            "attention forward backward, T=64",
            "rate at T=8",
            lambda f: rate(f, long) / rate(f, replace(long, T=8)),
            0.9,
        ),
        claim(
            "attention forward backward",
            "memory, share of eager dense's",
            lambda f: memory(f, ours) / memory(f, "eager dense"),
            None,
            1 / 20,
        ),
        *(
            faster(question, paper, "stgt_kernels triton", ours, 0.7, f"{spoken(question)}, Triton")
            for question in ("graph_construction", forward, both)
        ),
    ]


def model_claims() -> list[Claim]:
    """Claims for a training step at the paper's size. Each variant runs with its largest batch of at most 20 clips."""
    released, attention, ours = "released model", "released graph attention alone", "stgt_kernels"

    def claim(T: int, setting: str, than: str, at_least: float) -> Claim:
        case = f"ViT-g T={T} bf16, {setting}"

        def value(found: Found) -> float:
            rates = [found.row("training_step", case, name).details["clips/s"] for name in (ours, than)]
            return rates[0] / rates[1]

        return Claim(f"training step, T={T}, {setting}", "bf16", than, value, at_least)

    loop, cached = "tower in the loop", "cached features"
    return [
        claim(8, loop, released, 1.3),
        claim(32, loop, released, 1.8),
        claim(8, loop, attention, 1.15),
        claim(8, cached, attention, 1.7),
        claim(32, cached, attention, 4),
    ]
