"""7. How fast is attention at other batch sizes, head dimensions and numbers of patches?"""

from dataclasses import replace

from benchmarks.case import Case
from benchmarks.comparison import attention_case
from benchmarks.inputs import Problem
from benchmarks.providers import BAND, COMPILED_DENSE, DENSE, FLEX, KERNELS
from benchmarks.sizes import base


def cases(device: str, quick: bool) -> list[Case]:
    providers = (DENSE, COMPILED_DENSE, FLEX, BAND, *KERNELS) if device == "cuda" else (DENSE, BAND, *KERNELS)
    return [attention_case(problem, providers, backward=True) for problem in problems(device, quick)]


def problems(device: str, quick: bool) -> list[Problem]:
    usual = replace(base(device, quick), B=4) if device == "cuda" else replace(base(device, quick), T=4, H=4)
    batches = (1, 2) if quick else (1, 2, 4, 8)
    head_dims = (64, 128) if quick else (16, 32, 64, 96, 128)
    patches = (49, 196) if quick else (49, 196, 576, 1024)
    return [
        *(replace(usual, B=B) for B in batches),
        *(replace(usual, D=D) for D in head_dims),
        *(replace(usual, P=P) for P in patches),
    ]
