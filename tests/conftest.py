"""Fixtures of the whole suite: steady threads and steady randomness, which the environment can set to other values.

STGT_TEST_SEED (0) moves every seed of the tests, so that their inputs are others. STGT_TEST_THREADS (1) is the number
of threads wherever a test does not choose its own.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# OpenMP reads this when torch is loaded. Threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

# A suite that runs in the background or under nohup ignores these signals, and so would the commands that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SEED = int(os.environ.get("STGT_TEST_SEED", "0"))
# Most tensors here are tiny: two threads would spend their time waiting for each other.
THREADS = int(os.environ.get("STGT_TEST_THREADS", "1"))


def move_seeds(by: int) -> None:
    """Adds a number to every seed that PyTorch is given in this process, be it by a test or by what it tests."""
    seed_all = torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + by)

    torch.manual_seed = lambda seed: seed_all(seed + by)
    torch.Generator = Generator


if SEED:
    move_seeds(SEED)


@pytest.fixture(scope="session", autouse=True)
def steady_threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# What follows imports stgt where it is used: the tests of kernels need torch alone.


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder of a few simulated clips."""
    from stgt.data.shapes import render_shapes

    return render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, test=11, size=32, frames=6)


@pytest.fixture(scope="session")
def run(clips, tmp_path_factory) -> Path:
    """The folder of a tiny run that was trained on the clips. It is read only: commands on it write elsewhere."""
    from helpers.commands import TINY, run_cli

    out = tmp_path_factory.mktemp("runs") / "tiny"
    data = ["--data.train", clips / "train.json", "--data.test", clips / "test.json", "--data.videos", clips / "videos"]
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, "train", "quickstart", *TINY, "--epochs", 1, *data, "--out", out) == 0
    return out


@pytest.fixture
def stgt(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """stgt(word, …) runs the command line in this process; returns its exit status and all that it printed."""
    from helpers.commands import run_cli

    def command(*words: object) -> tuple[int, str]:
        status = run_cli(monkeypatch, *words)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


@pytest.fixture
def golden() -> Callable[[str], tuple[dict[str, torch.Tensor], dict[str, str]]]:
    """golden(name) returns the tensors and the metadata of a recorded file."""
    from helpers.golden import recorded

    return recorded


@pytest.fixture
def assert_near():
    """Compare with recorded float32 values, whose distance from float64 was measured.

    Outputs: 1e-5 of the largest value (the recorded ones are up to 4e-6 off). Gradients: 5e-5 (up to 4.3e-5 off). Both:
    2e-7 for sums that cancel, such as the gradient of a key's bias, which is 0 but for rounding.
    """

    def check(actual, expected, name, gradient=False):
        error = (actual.detach().cpu() - expected).abs().max().item()
        limit = (5e-5 if gradient else 1e-5) * expected.abs().max().item() + 2e-7
        assert error <= limit, f"{name}: largest error {error:.2e}, limit {limit:.2e}"

    return check
