"""The instruction set of the CPU's kernels: which one is chosen, and that each of them is right."""

import ctypes
import os
from pathlib import Path

import pytest
from helpers.interpreters import TESTS, python

from stgt_kernels import _C

NEEDS = {"portable": (), "avx2": ("avx2", "fma", "f16c"), "avx512": ("avx512bw", "avx512dq", "avx512vl")}
NEEDS["avx512_bf16"] = (*NEEDS["avx512"], "avx512_bf16")
NEEDS["amx"] = (*NEEDS["avx512_bf16"], "amx_tile", "amx_bf16")
COMPILED = os.uname().machine == "x86_64" and "clang" not in _C.build_info()["compiler"]
# These are the answers of CPUID on Sapphire Rapids, where the matrix unit may and may not be used, on Ice Lake and
# Haswell, on Zen 4 and Zen 3, and of an unknown maker.
PROCESSORS = [
    ("GenuineIntel", "avx2 avx512 avx512_bf16 amx", "amx"),
    ("GenuineIntel", "avx2 avx512 avx512_bf16", "avx512"),
    ("GenuineIntel", "avx2 avx512", "avx512"),
    ("GenuineIntel", "avx2", "avx2"),
    ("AuthenticAMD", "avx2 avx512 avx512_bf16", "avx512_bf16"),
    ("AuthenticAMD", "avx2", "avx2"),
    ("CentaurHauls", "avx2 avx512 avx512_bf16", "avx512"),
    ("", "", "portable"),
]


def isa_of(vendor, features, asked=""):
    has = {name: name in features.split() for name in ("avx2", "avx512", "avx512_bf16", "amx")}
    return _C.cpu_isa(vendor, **has, asked=asked)


@pytest.mark.parametrize(("vendor", "features", "expected"), PROCESSORS)
def test_the_instruction_set_follows_from_the_processor(vendor, features, expected):
    assert isa_of(vendor, features) == (expected if COMPILED else "portable")


@pytest.mark.parametrize(("vendor", "features", "_"), PROCESSORS)
def test_any_instruction_set_that_runs_can_be_asked_for(vendor, features, _):
    runs = ["portable", *(features.split() if COMPILED else [])]
    assert [isa_of(vendor, features, asked=name) for name in runs] == runs
    for name in {"avx2", "avx512", "avx512_bf16", "amx", "avx1024"}.difference(runs):
        with pytest.raises(RuntimeError, match=f"this machine runs .*portable, got {name}"):
            isa_of(vendor, features, asked=name)


def may_run(isa, flags):
    """Whether a processor with these flags has an instruction set, and Linux grants the matrix unit to "amx"."""
    ask_for_tiles = (158, 0x1023, 18)  # the number of arch_prctl, ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA
    return flags.issuperset(NEEDS[isa]) and (isa != "amx" or ctypes.CDLL(None).syscall(*ask_for_tiles) == 0)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux for the CPU's instruction sets")
def test_this_processor_is_recognised():
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    features = " ".join(isa for isa in NEEDS if isa != "portable" and may_run(isa, flags))
    code = "from stgt_kernels import _C; info = _C.build_info(); print(info['cpu_isa'], info['cpu_vendor'])"
    found, vendor = python(code, STGT_CPU_ISA=""), fields.get("vendor_id", "") if COMPILED else ""
    assert found.stdout.split() == f"{isa_of(vendor, features)} {vendor}".split(), found.stderr


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux for the CPU's instruction sets")
@pytest.mark.parametrize("isa", NEEDS)
def test_instruction_sets(isa):
    """Each compiled variant of the kernels passes its fuzz tests, or is refused where the CPU or the build lacks it."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if isa != "portable" and not (COMPILED and may_run(isa, flags)):
        refused = python("import stgt_kernels._C as native; native.build_info()", STGT_CPU_ISA=isa)
        assert refused.returncode != 0 and "STGT_CPU_ISA must be one of" in refused.stderr
        return
    code = f"""
import pytest, stgt_kernels._C as native
assert native.build_info()["cpu_isa"] == {isa!r}, native.build_info()
tests = {[str(TESTS / "kernels" / f"test_{name}.py") for name in ("fuzz", "dense_attention", "linear")]!r}
raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "cpu", *tests]))
"""
    result = python(code, STGT_CPU_ISA=isa)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
