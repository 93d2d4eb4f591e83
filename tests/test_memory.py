"""Commands, and training on a CPU, keep the memory of a batch for the next one."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import standin
from helpers.commands import run_cli

from stgt import cli, memory
from stgt.training import trainer as trainer_module


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory when it is told to")
def test_glibc_accepts_what_it_is_told():
    code = "from stgt.memory import keep_freed_memory as keep; print(keep(), keep(2**25))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == ["True", "True"]


FAULTS = """
import resource
from stgt.memory import keep_freed_memory

if {kept}:
    keep_freed_memory()
for size in (2**24, 2**26):
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * size
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory when it is told to")
def test_a_block_of_any_size_is_used_again_without_page_faults():
    found = {}
    for kept in (True, False):
        command = [sys.executable, "-c", FAULTS.format(kept=kept)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        found[kept] = [int(number) for number in done.stdout.split()]
    # A page may be as large as 2 MiB.
    assert max(found[True]) < 10 <= found[False][1], found


def test_what_the_library_is_told(monkeypatch):
    told = []
    library = SimpleNamespace(mallopt=lambda option, value: told.append((option, value)) or 1)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    assert memory.keep_freed_memory() and told == [(-1, 2**31 - 1), (-4, 0)]
    told.clear()
    assert memory.keep_freed_memory(2**20) and told == [(-1, 2**31 - 1), (-4, 65536), (-3, 2**20)]


def test_a_library_without_that_call_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert memory.keep_freed_memory() is False


def test_a_run_on_a_cpu_keeps_its_memory(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(trainer_module, "keep_freed_memory", lambda: calls.append(True))
    standin.trainer(standin.config(tmp_path)).fit()
    assert calls == [True]


def test_every_command_keeps_its_memory(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append(True))
    assert run_cli(monkeypatch, "info") == 0
    assert calls == [True] and "torch" in capsys.readouterr().out
