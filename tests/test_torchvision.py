"""torchvision can be imported beside any build of torch, and only by processes that need it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("name", ["_C.so", "_C_stable.so"])
def test_operators_of_a_library_that_loads_are_not_defined_again(name, tmp_path):
    """PyPI's torchvision 0.29 has another name for its library, and defining its operators twice ends the process."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / name).touch()
    done = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch\n"
        "def load(path):\n"
        "    torch.library.define('torchvision::nms', '(Tensor x) -> Tensor')\n"
        "    print(path)\n"
        "torch.ops.load_library = load\n"
        "import stgt._torchvision\n"
        "assert not hasattr(stgt._torchvision, '_definitions')\n"
    )
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "torchvision" / name), done.stderr


def test_processes_that_read_and_commands_that_begin_load_no_slow_package():
    done = run(
        "import sys, stgt.data.samples, stgt.data.windows, stgt.tasks\n"
        "slow = {'torchvision', 'timm', 'open_clip', 'transformers', 'pyarrow', 'matplotlib', 'torch._dynamo'}\n"
        "assert not slow & {*sys.modules}, slow & {*sys.modules}\n"
    )
    assert done.returncode == 0, done.stderr


def executed(node):
    """A node and all nodes below it, without the imports that only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from executed(child)


def first_imports(file):
    """The line of the first import of each module, with packages of others under their own names."""
    first: dict[str, int] = {}
    for node in executed(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            own = name.startswith(("stgt.", "helpers."))
            first.setdefault(name if own else name.split(".")[0], node.lineno)
    return first


def test_it_comes_before_every_package_that_imports_torchvision():
    """A module that imports such a package first works only if another module has been imported before it.

    In its place, a module can import another one that imports it, and a folder can import it for all its modules.
    """
    late = []
    helpers = [file for file in (ROOT / "tests" / "helpers").glob("*.py") if "stgt._torchvision" in first_imports(file)]
    guards = ("stgt._torchvision", "stgt.models.", *(f"helpers.{file.stem}" for file in helpers))
    for file in sorted([*(ROOT / "stgt").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        first = first_imports(file)
        before = [file.parent / name for name in ("__init__.py", "conftest.py")]
        if any(other.is_file() and other != file and "stgt._torchvision" in first_imports(other) for other in before):
            continue
        users = [first[name] for name in ("torchvision", "transformers", "timm", "open_clip") if name in first]
        if users and not any(name.startswith(guards) and line < min(users) for name, line in first.items()):
            late.append(str(file.relative_to(ROOT)))
    assert late == []
