"""Builds stgt_kernels._C, and stgt_kernels._cuda as STGT_BUILD_CUDA=auto|0|1 says (auto: where nvcc and CUDA are)."""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import setup

TORCH_TARGET = "2.10"  # the oldest torch whose stable ABI the extensions use


def require(command: str, package: str) -> None:
    if shutil.which(command) is None:
        raise SystemExit(
            f"stgt_kernels: building needs {command}, which is not on PATH. Install {package} and try again.\n"
            "  Debian/Ubuntu: apt-get install g++    Fedora: dnf install gcc-c++    macOS: xcode-select --install"
        )


def torch_extension():
    try:
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            f"stgt_kernels: building needs torch >= {TORCH_TARGET} in this environment ({error}). Install it, then:\n"
            "  pip install --no-build-isolation ."
        ) from error
    return cpp_extension


compiler = os.environ.get("CXX", "c++")
require(compiler.split()[0], "a C++20 compiler (g++ 11 or later)")
cpp_extension = torch_extension()
major, minor = TORCH_TARGET.split(".")
target = f"-DTORCH_TARGET_VERSION=0x{int(major):02x}{int(minor):02x}000000000000"
warnings = ["-Wall", "-Wno-psabi", "-Wno-ignored-attributes", "-Wno-maybe-uninitialized"]
flags = ["-O3", "-std=c++20", "-fvisibility=hidden", "-g0", *warnings, target]


def build_cuda() -> bool:
    import torch

    choice = os.environ.get("STGT_BUILD_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"stgt_kernels: STGT_BUILD_CUDA must be auto, 0 or 1, got {choice!r}")
    sources = sorted(Path("csrc/cuda").glob("*.cu"))
    able = bool(sources) and torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None
    if choice == "1" and not able:
        raise SystemExit(
            "stgt_kernels: STGT_BUILD_CUDA=1 needs CUDA sources, nvcc and a torch built with CUDA; here: "
            f"{len(sources)} sources, CUDA_HOME {cpp_extension.CUDA_HOME}, torch.version.cuda {torch.version.cuda}"
        )
    return able and choice != "0"


def cpp(name: str, sources: list[str], macros: dict[str, str]) -> object:
    define = [(key, f'"{value}"') for key, value in macros.items()]
    return cpp_extension.CppExtension(name, sources, define_macros=define, extra_compile_args=flags)


with_cuda = build_cuda()
architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0 9.0a") if with_cuda else ""
version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=True).stdout
extensions = [
    cpp(
        "stgt_kernels._C",
        ["csrc/library.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))],
        {
            "STGT_COMPILER": version.splitlines()[0],
            "STGT_FLAGS": " ".join(flags),
            "STGT_CUDA_ARCHITECTURES": architectures,
            "STGT_TORCH_TARGET": TORCH_TARGET,
        },
    )
]
if with_cuda:
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures
    extensions.append(
        cpp_extension.CUDAExtension(
            "stgt_kernels._cuda",
            sorted(map(str, Path("csrc/cuda").glob("*.cu"))),
            extra_compile_args={"cxx": flags, "nvcc": ["-O3", "-std=c++20", "--use_fast_math", "-DUSE_CUDA", target]},
        )
    )

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=True, no_python_abi_suffix=False)},
)
