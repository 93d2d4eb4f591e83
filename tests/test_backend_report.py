"""The report on backends and the start of `stgt` work where only torch is installed."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch

import stgt_kernels
from stgt import extras
from stgt_kernels import dispatch
from stgt_kernels.report import report

ROOT = Path(__file__).parents[1]
# None in sys.modules makes an import fail as if the package were not installed.
WITHOUT_EXTRAS = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({[*extras.EXTRAS, "triton", "scipy"]}))
sys.argv[0] = "stgt"
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=False)
"""


def run_without_extras(module: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_EXTRAS, module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def verdicts(text: str) -> dict[str, str]:
    return dict(re.findall(r"^backend (\w+) *: (.+)$", text, re.MULTILINE))


def test_the_report_names_versions_build_and_instruction_sets():
    text = report()
    assert text.startswith(f"stgt_kernels {stgt_kernels.__version__}, Python 3.")
    assert f"torch {torch.__version__}" in text
    assert torch.backends.cpu.get_cpu_capability() in text
    assert re.search(r"^_C: compiler .+, flags .*-O3.+, cpu_isa (portable|avx|amx)", text, re.MULTILINE)


def test_each_backend_runs_here_or_has_a_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(dispatch, "triton_error", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(dispatch, "extension_error", {"_C": "no compiler was there", "_cuda": "no CUDA here"}.get)
    assert verdicts(report()) == {
        "cuda": "no: no CUDA here",
        "triton": "no: PyTorch finds no CUDA device",
        "cpu": "no: no compiler was there",
        "reference": "yes, on cpu",
    }


def test_the_report_shows_the_variables_that_change_what_runs(monkeypatch):
    monkeypatch.setenv("STGT_CPU_ISA", "portable")
    monkeypatch.setenv("SECRET", "word")
    line = report().splitlines()[-1]
    assert line.startswith("environment: ") and "STGT_CPU_ISA=portable" in line and "word" not in line


def test_an_instruction_set_that_is_not_here_is_the_reason_why_the_cpu_kernels_cannot_run():
    command = [sys.executable, "-m", "stgt_kernels"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"STGT_CPU_ISA": "abacus"}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"no: .*STGT_CPU_ISA must be one of .+, got abacus$", verdicts(done.stdout)["cpu"])


def test_the_report_needs_torch_alone():
    done = run_without_extras("stgt_kernels")
    assert done.returncode == 0, done.stderr
    assert set(verdicts(done.stdout)) == set(dispatch.BACKENDS)
    assert verdicts(done.stdout)["triton"].startswith("no: triton is not installed")


def test_stgt_info_needs_torch_alone_and_adds_its_own_packages():
    done = run_without_extras("stgt", "info")
    assert done.returncode == 0, done.stderr
    assert set(verdicts(done.stdout)) == set(dispatch.BACKENDS)
    assert re.search(r"^stgt: transformers \S+, ", done.stdout.splitlines()[-1])


def test_other_commands_say_which_extra_to_install():
    done = run_without_extras("stgt", "search", "a dog", "--run", "x")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"stgt: \w+ is not installed; run: pip install 'stgt-kernels\[search\]' .+\n", done.stderr)


@pytest.mark.parametrize("line", ["stgt.load('x')", "stgt.Index('x')", "from stgt import Index"])
def test_python_says_which_extra_to_install(line):
    program = f"import sys\nsys.modules.update(dict.fromkeys({[*extras.EXTRAS]}))\nimport stgt\n{line}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=500)
    *_, message = done.stderr.splitlines()
    assert re.match(r"ModuleNotFoundError: \w+ is not installed; run: pip install 'stgt-kernels\[search\]'", message)


@pytest.mark.parametrize("error", [ModuleNotFoundError("x", name="my_recipes"), ImportError("x", name="tyro")])
def test_other_import_errors_are_not_about_an_extra(error):
    assert extras.missing_package(error) is None


def test_a_submodule_that_is_missing_names_its_package():
    error = ModuleNotFoundError("x", name="tensorboard.summary")
    assert extras.missing_package(error).startswith(
        "tensorboard is not installed; run: pip install 'stgt-kernels[train]'"
    )


def same_name(distribution):
    """The form in which PyPI compares names."""
    return distribution.lower().replace("_", "-")


def test_each_module_belongs_to_the_extra_that_is_named():
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {extra: {same_name(re.match(r"[\w-]+", line)[0]) for line in lines} for extra, lines in optional.items()}
    distributions = packages_distributions()
    for module, extra in extras.EXTRAS.items():
        if module in distributions:  # decord does not exist for every machine
            assert {same_name(name) for name in distributions[module]} & brought[extra], f"{module} is not in [{extra}]"
    assert "stgt-kernels[search]" in optional["train"]
