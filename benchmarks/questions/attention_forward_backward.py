"""3. How fast is attention, forward and backward?"""

from benchmarks.case import Case
from benchmarks.comparison import attention_case
from benchmarks.providers import ATTENTION
from benchmarks.sizes import base, both_dtypes


def cases(device: str, quick: bool) -> list[Case]:
    return [attention_case(problem, ATTENTION, backward=True) for problem in both_dtypes(base(device, quick))]
