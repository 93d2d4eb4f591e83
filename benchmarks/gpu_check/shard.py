"""A pytest plugin for several processes that share the tests. With STGT_SHARD=cuda:2/8 it runs 2, 10, 18, ... of cuda.

The tests of the backend triton have processes of their own, so that kernels that crash or hang in one backend leave the
other backend's tests alone. Tests without a backend belong to cuda, and tests of backends that need no GPU are left
out. Outcomes go to the record in the file STGT_RECORD. A test that has begun, according to the record, does not run
again.
"""

import os
from pathlib import Path

import pytest

from benchmarks.gpu_check.processes import leave_if_the_gpu_is_lost
from benchmarks.gpu_check.record import Record

SECONDS = {"cuda": 30, "triton": 150}
"""The time limit for one test. Triton compiles during the tests."""
SHARD = os.environ["STGT_SHARD"]
BACKEND, _, PLACE = SHARD.partition(":")
record = Record(Path(os.environ["STGT_RECORD"]), "tests")
reports: list[pytest.TestReport] = []


@pytest.hookimpl(trylast=True)  # after pytest has selected tests by marker
def pytest_collection_modifyitems(config, items) -> None:
    first, step = map(int, PLACE.split("/"))
    chosen = [item for item in items if (backend_of(item) or "cuda") == BACKEND][first::step]
    record.add(f"collected {SHARD}", len(chosen))
    begun = record.read()
    chosen = [item for item in chosen if item.nodeid not in begun]
    config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
    items[:] = chosen


def pytest_collectreport(report) -> None:
    if report.failed:
        record.add(f"collecting {report.nodeid}", {"outcome": "failed", "backend": None, "message": message([report])})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    record.begin(item.nodeid, SECONDS[BACKEND])
    reports.clear()
    result = yield
    failed = [report for report in reports if report.failed]
    outcome = "failed" if failed else "skipped" if any(report.skipped for report in reports) else "passed"
    record.end(item.nodeid, {"outcome": outcome, "backend": backend_of(item), "message": message(failed)})
    if failed:
        leave_if_the_gpu_is_lost()
    return result


def pytest_runtest_logreport(report) -> None:
    reports.append(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus) -> None:
    """Exits with 0 for failed tests and empty shards, which are recorded. Other nonzero codes restart this shard."""
    if exitstatus in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.OK


def backend_of(item) -> str | None:
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


def message(failed: list[pytest.TestReport | pytest.CollectReport]) -> str:
    """The message of the first error, followed by the end of its traceback."""
    if not failed:
        return ""
    crash = getattr(failed[0].longrepr, "reprcrash", None)
    return f"{crash.message[:1500] if crash else ''}\n{failed[0].longreprtext[-1500:]}".strip()
