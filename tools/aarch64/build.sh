#!/usr/bin/env bash
# Compiles csrc for aarch64, and runs its CPU kernels in qemu-aarch64 where that is installed.
# Usage: tools/aarch64/build.sh PYTHON, in the root of the repository, with a Python that has torch and pybind11.
# Nothing is linked with torch, since its libraries for aarch64 are not here: symbols of torch stay undefined.
set -euo pipefail
cxx=aarch64-linux-gnu-g++
command -v $cxx >/dev/null || { echo "$cxx is not on PATH; on Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu" >&2; exit 1; }
out=build/aarch64
mkdir -p $out
"$1" - >$out/flags <<'PYTHON'
import sysconfig

import pybind11
from torch.utils.cpp_extension import include_paths

import setup

macros = [f"-D{name}=NAME" for name in ("STGT_COMPILER", "STGT_FLAGS", "STGT_CUDA_ARCHITECTURES", "STGT_TORCH_TARGET")]
folders = [pybind11.get_include(), *include_paths(), sysconfig.get_path("include")]
print(*setup.flags, "-O1", "-fPIC", "-DNAME=\\\"aarch64\\\"", *macros, *(f"-isystem{folder}" for folder in folders), sep="\n")
PYTHON
export cxx out
printf '%s\n' csrc/library.cpp csrc/cpu/*.cpp tools/aarch64/kernels.cpp |
  xargs -P 2 -I SOURCE sh -c '$cxx @$out/flags -c SOURCE -o $out/$(basename SOURCE .cpp).o'
objects=(csrc/library.cpp csrc/cpu/*.cpp)
objects=("${objects[@]##*/}")
objects=("${objects[@]/#/$out/}")
$cxx -shared "${objects[@]/%.cpp/.o}" -o $out/_C.so
if aarch64-linux-gnu-nm -DuC $out/_C.so | grep "stgt::"; then
  echo "these symbols of csrc are missing on aarch64" >&2
  exit 1
fi
echo "csrc compiles for aarch64"
if command -v qemu-aarch64 >/dev/null; then
  $cxx -static $out/kernels.o $out/isa_portable.o -o $out/kernels
  qemu-aarch64 $out/kernels
else
  echo "qemu-aarch64 is not on PATH, so that nothing was run; on Debian and Ubuntu: apt-get install qemu-user"
fi
