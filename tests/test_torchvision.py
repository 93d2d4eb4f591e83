"""torchvision can be imported beside any build of torch, in a fresh process."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)


def test_transforms_import_and_work():
    done = run(
        "import stgt._torchvision, torch\n"
        "from torchvision.transforms import v2\n"
        "assert v2.Resize((8, 8))(torch.zeros(2, 3, 16, 20, dtype=torch.uint8)).shape == (2, 3, 8, 8)\n"
    )
    assert done.returncode == 0, done.stderr


def test_importing_it_twice_or_late_changes_nothing():
    done = run("import importlib, stgt._torchvision as m, torchvision\nimportlib.reload(m)\nimport torchvision.ops\n")
    assert done.returncode == 0, done.stderr
