"""The build records its settings, and explains why it cannot go on."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Literal, get_overloads, get_type_hints

import pytest
import torch

import stgt_kernels
from stgt_kernels import _C

ROOT = Path(__file__).parents[1]
TOOLS = "pip install torch 'setuptools>=77' wheel ninja 'pybind11>=2.13'"


@pytest.fixture
def setup_py(tmp_path):
    """Runs setup.py far enough to fail, or to name the package, in a copy that it may write to."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if k not in ("CXX", "STGT_BUILD_CUDA")} | environment
        command = [sys.executable, "setup.py", *(arguments or ("--version",))]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)

    return run


def test_build_info():
    info = _C.build_info()
    assert set(info) == {"compiler", "flags", "cuda_architectures", "torch_target", "cpu_isa", "cpu_vendor"}
    assert re.search(r"\d+\.\d+", info["compiler"])
    assert "-O3" in info["flags"] and "-std=c++20" in info["flags"]
    assert "-march=native" not in info["flags"]  # a wheel has to run on other machines
    assert info["torch_target"] == "2.10"
    assert f"TORCH_TARGET_VERSION=0x{2:02x}{10:02x}{0:012x}" in info["flags"]
    assert info["cpu_isa"] in ("portable", "avx2", "avx512", "avx512_bf16", "amx")
    assert info["cuda_architectures"] == "" or torch.version.cuda is not None


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == stgt_kernels.__version__
    assert [d for d in project["dependencies"] if not d.startswith("torch")] == []


def test_both_packages_are_marked_as_typed():
    assert (ROOT / "stgt" / "py.typed").exists() and (ROOT / "stgt_kernels" / "py.typed").exists()
    plain, with_lse = (get_type_hints(overload) for overload in get_overloads(stgt_kernels.graph_attention))
    assert plain["return_lse"] == Literal[False] and plain["return"] == torch.Tensor
    assert with_lse["return_lse"] == Literal[True] and with_lse["return"] == tuple[torch.Tensor, torch.Tensor]


def test_packages_whose_next_major_version_may_break_us_are_bounded():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package in ("transformers", "open_clip_torch"):
        [line] = [line for line in extras["search"] if line.startswith(package)]
        pinned = re.search(rf"^{package}==(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
        assert line == f"{package}>={pinned},<{int(pinned) + 1}"


def test_the_library_needs_no_symbol_of_torch_s_unstable_c_plus_plus():
    """The library uses only the stable C interface of torch, so one wheel works with every torch from 2.10 on."""
    if shutil.which("nm") is None:
        pytest.skip("binutils' nm is not installed")
    symbols = subprocess.run(["nm", "-DuC", _C.__file__], capture_output=True, text=True, check=True).stdout
    assert "aoti_torch" in symbols
    unstable = [line for line in symbols.splitlines() if re.search(r"\b(at|c10|torch)::", line)]
    assert unstable == []


@pytest.mark.parametrize("environment", [{}, {"CXX": ""}])
def test_setup_reads_without_building(setup_py, environment):
    result = setup_py(**environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == stgt_kernels.__version__


@pytest.mark.parametrize("environment", [{"PATH": ""}, {"CXX": "/nonexistent/g++"}, {"CXX": "/nonexistent/g++ -m64"}])
def test_without_a_compiler_it_says_what_to_install(setup_py, environment):
    result = setup_py(**environment)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    command = environment.get("CXX", "c++").split()[0]
    assert f"building needs {command}, which is not on PATH" in result.stderr
    assert "Install a C++20 compiler" in result.stderr and "apt-get install g++" in result.stderr


def test_a_source_distribution_can_be_built(setup_py, tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").touch()  # setuptools adds it by itself
    result = setup_py("-q", "sdist", STGT_BUILD_CUDA="0")
    assert result.returncode == 0, result.stderr
    with tarfile.open(next((tmp_path / "dist").iterdir())) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert sources and sources <= held
    assert not any(name.startswith("tests") for name in held)


def test_without_torch_it_says_what_to_install(setup_py, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    result = setup_py()
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "building needs torch >= 2.10 and pybind11" in result.stderr
    assert f"{TOOLS}\n  pip install --no-build-isolation" in result.stderr


def test_an_old_setuptools_is_refused_with_the_command_that_installs_a_new_one(setup_py, tmp_path):
    (tmp_path / "setuptools.py").write_text("__version__ = '65.5.0'")
    result = setup_py()
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert f"building needs setuptools >= 77, here is 65.5.0. Install what it needs:\n  {TOOLS}" in result.stderr


@pytest.mark.parametrize("choice", ["nonsense", "2", "yes"])
def test_an_unknown_choice_about_cuda_is_refused(setup_py, choice):
    result = setup_py(STGT_BUILD_CUDA=choice)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert f"STGT_BUILD_CUDA must be auto, 0 or 1, got {choice!r}" in result.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="tells how a torch without CUDA is answered")
def test_cuda_that_cannot_be_built_is_refused_when_asked_for(setup_py):
    result = setup_py(STGT_BUILD_CUDA="1")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "STGT_BUILD_CUDA=1 asks for the CUDA kernels, but torch is built without CUDA" in result.stderr
    for choice in ("0", "auto"):
        assert setup_py(STGT_BUILD_CUDA=choice).returncode == 0


@pytest.mark.parametrize(
    ("release", "wanted", "reason"),
    [
        ("13.0", "13.2", None),
        ("12.8", "12.6", None),
        ("12.4", "12.6", "is of CUDA 12.4, expected 12.8 or later"),
        ("13.0", "12.8", "is of CUDA 13.0, expected 12.8 or later, and the major version of torch's 12.8"),
        ("11.8", "13.0", "is of CUDA 11.8"),
        (None, "13.0", "nvcc is not on PATH, and CUDA_HOME is"),
    ],
)
def test_cuda_kernels_are_built_where_nvcc_fits_torch(build, tmp_path, release, wanted, reason):
    if release:
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.99'\n")
        nvcc.chmod(0o755)
    found = build.why_no_cuda(str(tmp_path), wanted)
    assert found is None if reason is None else reason in found
    assert "nvcc is not on PATH, and CUDA_HOME is None" in build.why_no_cuda(None, wanted)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexit 127\n", "does not name its version of CUDA"),
        ("#!/bin/sh\necho hello\n", "does not name its version of CUDA"),
        ("\0", r"cannot run \("),
    ],
)
def test_an_nvcc_that_does_not_work_is_a_reason_to_leave_the_cuda_kernels_out(build, tmp_path, script, reason):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(script)
    nvcc.chmod(0o755)
    assert re.search(f"^{re.escape(str(nvcc))} .*{reason}", build.why_no_cuda(str(tmp_path), "13.0"))


def test_a_source_that_does_not_compile_fails_the_build(setup_py, tmp_path):
    for source in (tmp_path / "csrc" / "cpu").glob("*.cpp"):
        source.unlink()
    (tmp_path / "csrc" / "library.cpp").write_text("#error this must stop the build\n")
    result = setup_py("build_ext", "--build-temp", "objects", "--build-lib", "built")
    assert result.returncode != 0 and "this must stop the build" in result.stdout + result.stderr
    assert not list((tmp_path / "built").rglob("*.so"))


@pytest.fixture(scope="module")
def build():
    """The functions of setup.py."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("listed", "built"),
    [
        ("8.0+PTX 9.0a", ["8.0+PTX", "9.0a"]),
        ("7.5;8.6;9.0", ["8.6", "9.0a"]),
        ("9.0+PTX 10.0a 12.0+PTX", ["9.0a+PTX", "10.0a", "12.0+PTX"]),
    ],
)
def test_cuda_architectures(build, listed, built):
    assert build.cuda_architectures(listed) == built


@pytest.mark.parametrize(
    ("listed", "message"),
    [("7.5", "8.0 or later"), ("", "8.0 or later"), ("Ampere", "must be like"), ("sm_90", "must be like")],
)
def test_cuda_architectures_that_are_refused(build, listed, message):
    with pytest.raises(SystemExit, match=message):
        build.cuda_architectures(listed)


def test_options_for_cuda_architectures(build):
    assert build.code_for("8.6") == ["-gencode=arch=compute_86,code=sm_86"]
    hopper = ["-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_90,code=compute_90"]
    assert build.code_for("9.0a") == hopper[:1] and build.code_for("9.0a+PTX") == hopper
    assert not any("fast" in flag for flag in build.nvcc_flags)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_cuda_is_found_where_nvcc_says(build):
    home = Path(build.cuda_home())
    assert (home / "include" / "cuda_runtime.h").exists() and (home / "bin" / "nvcc").exists()


def test_make_builds_the_kernels_again_after_make_clean(tmp_path):
    """`make clean` removes the compiled kernels. Nothing would compile them again if make took them for built."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / "csrc").mkdir()
    stamps = [tmp_path / ".venv" / name for name in (".packages", ".built", ".complete")]
    stamps[0].parent.mkdir()
    for stamp in stamps:  # each is as new as the one that it is made from, as after `make setup`
        stamp.touch()

    def make(*arguments: str) -> str:
        return subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "pip install" not in make("-n", "setup")
    make("clean")
    commands = make("-n", "setup")
    assert "--editable" in commands and "-m venv" not in commands
