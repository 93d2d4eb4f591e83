"""The processes that torchrun starts wait for each other as long as torch lets them, and then say who is missing."""

from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store, default_pg_timeout

from stgt.distributed import _agreed_name, start_world


@pytest.fixture
def store():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    store.set_timeout(timedelta(seconds=0.3))
    return store


def test_a_process_waits_for_others_as_long_as_without_torchruns_store(store, monkeypatch):
    setting = dict(RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=store.port)
    for name, value in (setting | dict(TORCHELASTIC_USE_AGENT_STORE=True)).items():
        monkeypatch.setenv(name, str(value))
    world = start_world("cpu")
    try:
        assert world.size == 1 and _get_default_store().timeout == default_pg_timeout == timedelta(minutes=30)
    finally:
        dist.destroy_process_group()


def test_process_0_names_the_processes_that_do_not_come(store):
    store.set("asks/1", "the name of a process that died")
    with pytest.raises(OSError, match=r"processes \[1, 2\] of 3 did not join process 0 within 0:00:00.3"):
        _agreed_name(store, 0, 3)


def test_the_others_name_process_0(store):
    with pytest.raises(OSError, match="process 0 did not join process 2 within 0:00:00.3"):
        _agreed_name(store, 2, 3)
