"""The file that pytest runs: one test per case, timed by pytest-benchmark on a CPU and by CUDA events on a GPU.

`make test` does not collect it. `python -m benchmarks` passes this file to pytest together with a Run.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from benchmarks import limits
from benchmarks.case import Bench, Case
from benchmarks.gpu_timing import queued_times
from benchmarks.rows import Row
from benchmarks.timing import cpu_times


def test_case(question: str, case: Case, bench: Bench, publish: Callable[[list[Row]], None]) -> None:
    publish(case.run(question, bench))


class Run:
    """A pytest plugin that holds the cases, gives them their timing function, and collects their rows."""

    def __init__(self, cases: list[tuple[str, Case]], device: torch.device, quick: bool, show: Callable) -> None:
        self.cases, self.device, self.quick, self.show = cases, device, quick, show
        self.rows: list[Row] = []

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        ids = [f"{question}: {case.name}" for question, case in self.cases]
        metafunc.parametrize(("question", "case"), self.cases, ids=ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        done = report.passed and report.when == "call"
        return ("passed", "", "") if done else None  # the table of rows shows it

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest) -> Bench:
        on_cpu = self.device.type == "cpu"
        measure = partial(cpu_times, request.getfixturevalue("benchmark")) if on_cpu else queued_times
        return Bench(self.device, self.quick, measure, limits.measure(self.device))

    @pytest.fixture
    def publish(self, capfd: pytest.CaptureFixture) -> Callable[[list[Row]], None]:
        def publish(rows: list[Row]) -> None:
            self.rows += rows
            with capfd.disabled():  # output of compilers and profilers stays captured, and shows on failure
                self.show(rows)

        return publish
