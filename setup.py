"""Builds stgt_kernels._C and stgt_kernels._cuda, the kernels for CPUs and for CUDA GPUs.

STGT_BUILD_CUDA=0 leaves _cuda out, 1 requires it, and auto builds it if a CUDA build of torch and its nvcc are here.
TORCH_CUDA_ARCH_LIST names the GPUs that _cuda is built for, as for PyTorch's own extensions. STGT_SANITIZE=1 builds _C
with sanitizers, for `make sanitize`: only a process that preloads them can import it.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import setuptools

TORCH_TARGET = "2.10"  # the oldest torch whose stable ABI the extensions use
INSTALL_TOOLS = "pip install torch 'setuptools>=77' wheel ninja 'pybind11>=2.13'"
# Machine code for the A100 and GPUs that are compatible with it, PTX that drivers compile for all newer GPUs, and
# machine code with Hopper's own instructions.
CUDA_ARCHITECTURES = "8.0+PTX 9.0a"
OLDEST_CUDA = (12, 8)

major, minor = TORCH_TARGET.split(".")
target = f"-DTORCH_TARGET_VERSION=0x{int(major):02x}{int(minor):02x}000000000000"
warnings = ["-Wall", "-Wno-psabi", "-Wno-ignored-attributes", "-Wno-maybe-uninitialized"]
flags = ["-O3", "-std=c++20", "-fvisibility=hidden", "-g0", *warnings, target]
# The first fault ends the process. More optimization would make these builds take many minutes.
sanitizer_flags = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# There is no --use_fast_math, so float32 is exact. The line numbers cost nothing and are for profilers and sanitizers.
nvcc_flags = ["-O3", "-std=c++20", "-lineinfo", "--threads=2", "-DUSE_CUDA", "-Xcompiler=-fvisibility=hidden", target]


def require(command: str, package: str) -> None:
    if shutil.which(command) is None:
        raise SystemExit(
            f"stgt_kernels: building needs {command}, which is not on PATH. Install {package} and try again.\n"
            "  Debian/Ubuntu: apt-get install g++    Fedora: dnf install gcc-c++    macOS: xcode-select --install"
        )


def cuda_home() -> str:
    """Returns the folder of CUDA that the nvcc on PATH belongs to."""
    command = ["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return str(Path(re.search(r"#\$ TOP=(.*)", said)[1]).resolve())


def build_tools():
    """Returns torch's cpp_extension and the folder of pybind11's headers.

    torch has such headers, too, but those of torch 2.11 refuse the stable ABI.
    """
    # torch would take the folder above that of nvcc, but nvcc may be a link or a script
    if "CUDA_HOME" not in os.environ and "CUDA_PATH" not in os.environ and shutil.which("nvcc"):
        os.environ["CUDA_HOME"] = cuda_home()
    try:
        import pybind11
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            f"stgt_kernels: building needs torch >= {TORCH_TARGET} and pybind11 in this environment ({error}). "
            f"Install them, and then this package:\n  {INSTALL_TOOLS}\n  pip install --no-build-isolation --editable ."
        ) from error
    return cpp_extension, pybind11.get_include()


def why_no_cuda(home: str | None, wanted: str | None) -> str | None:
    """Returns the reason why _cuda cannot be built with CUDA in this folder and torch of this version of CUDA, or None.

    torch itself refuses an nvcc of another major version than its own.
    """
    if wanted is None:
        return "torch is built without CUDA"
    nvcc = Path(home or "", "bin", "nvcc")
    if home is None or not nvcc.exists():
        return f"nvcc is not on PATH, and CUDA_HOME is {home}"
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError as error:  # it may be made for another kind of processor
        return f"{nvcc} cannot run ({error.strerror})"
    found = re.search(r"release ((\d+)\.(\d+))", said)
    if found is None:
        return f"{nvcc} --version does not name its version of CUDA"
    if (int(found[2]), int(found[3])) < OLDEST_CUDA or found[2] != wanted.split(".")[0]:
        oldest = ".".join(map(str, OLDEST_CUDA))
        return f"{nvcc} is of CUDA {found[1]}, expected {oldest} or later, and the major version of torch's {wanted}"
    return None


def builds_cuda(cpp_extension) -> bool:
    import torch

    choice = os.environ.get("STGT_BUILD_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"stgt_kernels: STGT_BUILD_CUDA must be auto, 0 or 1, got {choice!r}")
    if choice == "0":
        return False
    missing = why_no_cuda(cpp_extension.CUDA_HOME, torch.version.cuda)
    if missing and choice == "1":
        raise SystemExit(f"stgt_kernels: STGT_BUILD_CUDA=1 asks for the CUDA kernels, but {missing}")
    if missing:
        print(f"stgt_kernels: the CUDA kernels are not built, because {missing}")
    return missing is None


def cuda_architectures(listed: str) -> list[str]:
    """Returns the GPUs to build for from a TORCH_CUDA_ARCH_LIST, each as 8.6, 8.6+PTX or 9.0a.

    GPUs before 8.0 are left out. 9.0 becomes 9.0a: all such GPUs run it, and no other GPU has its instructions.
    """
    chosen = []
    for name in listed.replace(";", " ").split():
        known = re.fullmatch(r"(\d+)\.\d[af]?(\+PTX)?", name)
        if known is None:
            raise SystemExit(f"stgt_kernels: TORCH_CUDA_ARCH_LIST must be like {CUDA_ARCHITECTURES!r}, got {name!r}")
        if int(known[1]) >= 8:
            chosen.append(re.sub(r"^9\.0(?!a)", "9.0a", name))
    if not chosen:
        raise SystemExit(
            f"stgt_kernels: the CUDA kernels need compute capability 8.0 or later, TORCH_CUDA_ARCH_LIST is {listed!r}; "
            "set STGT_BUILD_CUDA=0 to build without them"
        )
    return chosen


def code_for(architecture: str) -> list[str]:
    """Returns nvcc's options for one of them: machine code and, with +PTX, code that drivers compile for newer GPUs."""
    number = architecture.removesuffix("+PTX").replace(".", "")
    options = [f"-gencode=arch=compute_{number},code=sm_{number}"]
    if architecture.endswith("+PTX"):
        family = number.rstrip("af")  # code for one GPU's own instructions is never compiled for another
        options.append(f"-gencode=arch=compute_{family},code=compute_{family}")
    return options


def main() -> None:
    if int(setuptools.__version__.split(".")[0]) < 77:
        raise SystemExit(
            f"stgt_kernels: building needs setuptools >= 77, here is {setuptools.__version__}. Install what it needs:\n"
            f"  {INSTALL_TOOLS}"
        )
    if not os.environ.get("CXX", "").strip():  # an empty variable names no compiler, here and for torch
        os.environ.pop("CXX", None)
    compiler = os.environ.get("CXX", "c++")
    require(compiler.split()[0], "a C++20 compiler (g++ 12 or later)")
    cpp_extension, pybind11_include = build_tools()
    with_cuda = builds_cuda(cpp_extension)
    architectures = cuda_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)) if with_cuda else []
    sanitized = os.environ.get("STGT_SANITIZE") == "1"
    cpu_flags = [*flags, *sanitizer_flags] if sanitized else flags
    version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=True).stdout

    def macros(**values: str) -> list[tuple[str, str]]:
        return [(name, f'"{value}"') for name, value in values.items()]

    extensions = [
        cpp_extension.CppExtension(
            "stgt_kernels._C",
            ["csrc/library.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))],
            include_dirs=[pybind11_include],
            define_macros=macros(
                STGT_COMPILER=version.splitlines()[0],
                STGT_FLAGS=" ".join(cpu_flags),
                STGT_CUDA_ARCHITECTURES=" ".join(architectures),
                STGT_TORCH_TARGET=TORCH_TARGET,
            ),
            extra_compile_args=cpu_flags,
            extra_link_args=sanitizer_flags if sanitized else [],
        )
    ]
    if with_cuda:
        code = [option for architecture in architectures for option in code_for(architecture)]
        extensions.append(
            cpp_extension.CUDAExtension(
                "stgt_kernels._cuda",
                ["csrc/cuda/module.cpp", *sorted(map(str, Path("csrc/cuda").rglob("*.cu")))],
                include_dirs=[pybind11_include],
                define_macros=macros(STGT_CUDA_ARCHITECTURES=" ".join(architectures)),
                extra_compile_args={"cxx": flags, "nvcc": [*nvcc_flags, *code]},
            )
        )
    build_ext = cpp_extension.BuildExtension.with_options(use_ninja=True, no_python_abi_suffix=False)
    setuptools.setup(ext_modules=extensions, cmdclass={"build_ext": build_ext})


if __name__ == "__main__":  # tests read the flags
    main()
