"""A process that trains on a CPU keeps the memory of a step for the next one."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import standin

from stgt.training import memory
from stgt.training import trainer as trainer_module


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory when it is told to")
def test_glibc_accepts_what_it_is_told():
    code = "from stgt.training.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "True"


def test_blocks_up_to_32_mib_come_from_memory_that_is_never_returned(monkeypatch):
    told = []
    library = SimpleNamespace(mallopt=lambda option, value: told.append((option, value)) or 1)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    assert memory.keep_freed_memory() and told == [(-3, 32 * 2**20), (-1, 2**31 - 1)]


def test_a_library_without_that_call_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert memory.keep_freed_memory() is False


def test_a_run_on_a_cpu_keeps_its_memory(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(trainer_module, "keep_freed_memory", lambda: calls.append(True))
    standin.trainer(standin.config(tmp_path)).fit()
    assert calls == [True]
