"""The processes of a run: the number of this one, values that all of them agree on, and shared gradients."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# The functions of this module keep the process group that exists when the module is first imported, and DDP imports it.
# It is imported before any group exists, so that `World.close` ends gloo's threads. A thread that outlives the
# interpreter can abort the process after its last step.
import torch.distributed.nn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stgt.causes import first_line

_PATIENCE = {"nccl": timedelta(minutes=10), "gloo": timedelta(minutes=30)}
"""How long processes wait for each other. These are torch's own defaults. Without a timeout, a store that is handed to
torch waits for 5 minutes only"""


@dataclass(frozen=True)
class World:
    """This process among the processes of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. Every process must call this."""
        return bool(self.max(int(flag)))

    def max(self, value: int) -> int:
        """The largest value of all processes. Every process must call this."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest.item())

    def sum(self, value: int) -> int:
        """The sum of the values of all processes. Every process must call this."""
        return int(self.add(torch.tensor(value)).item())

    def add(self, rows: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes. It joins rows that each process fills where the others have zeros."""
        if self.size == 1:
            return rows
        total = rows.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def mean(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The means of scalars over all processes, which have the same names. The host does not wait for the device."""
        if self.size == 1:
            return values
        total = torch.stack([value.detach().float() for value in values.values()])
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).unbind(), strict=True))

    def gather(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The small tensors of all processes under "rank.name". All processes must have the same names and shapes."""
        if self.size == 1:
            return {f"0.{name}": tensor for name, tensor in tensors.items()}
        gathered = {}
        for name, tensor in tensors.items():
            parts = [torch.empty_like(tensor, device=self.device) for _ in range(self.size)]
            dist.all_gather(parts, tensor.to(self.device))
            gathered.update({f"{rank}.{name}": part.cpu() for rank, part in enumerate(parts)})
        return gathered

    def collect(self, value: object) -> list:
        """The small values of all processes, in the order of their numbers. Every process must call this."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def agreed(self, kind: type[Exception]) -> Iterator[None]:
        """Run a block that fails in all processes if it fails in one. Every process must run it.

        The other processes raise `kind` with the message of the first one that failed. A process that fails inside
        the block does not come to the calls after it. So a call there in which processes wait for each other has to
        stand in another block of this kind, or after code that cannot fail in one process alone.
        """
        own = None
        try:
            yield
        except Exception as error:
            if getattr(error, "agreed", False):
                raise
            own = error
        messages = self.collect(None if own is None else f"process {self.rank}: {own}")
        if own is None and (failed := [message for message in messages if message is not None]):
            own = kind(failed[0])
        if own is not None:
            own.agreed = True  # an outer block need not ask again
            raise own

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


ALONE = World(0, 1, torch.device("cpu"))
"""A process without others"""


def choose_device(device: str = "auto") -> torch.device:
    """The device with this name. "auto" is a GPU where there is one. Each local process takes its own GPU.

    Raises ValueError for a device that torch does not know or does not have.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error) if isinstance(device, str) else f"it is a {type(device).__name__}"
        raise ValueError(f"device is {device!r}, expected 'auto' or a torch device: {reason}") from None
    if chosen.type == "meta":
        raise ValueError(f"device is {device!r}, expected one that computes")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, but torch sees no GPU")
        local = int(os.environ.get("LOCAL_RANK", 0))
        chosen = torch.device("cuda", local if chosen.index is None else chosen.index)
    elif chosen.type != "cpu":
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
            raise ValueError(f"device is {device!r}, which this torch does not have: {first_line(error)}") from None
    return chosen


def start_world(device: str = "auto") -> World:
    """Join the processes that torchrun started, if it did, and use `choose_device(device)`."""
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        _join_processes("nccl" if chosen.type == "cuda" else "gloo")
    if not dist.is_initialized():
        return World(0, 1, chosen)
    return World(dist.get_rank(), dist.get_world_size(), chosen)


def _join_processes(backend: str) -> None:
    """Make the process group of the processes that torchrun started, also if it started others before them.

    torchrun's own store outlives the processes. It may hold the addresses of processes that are dead, and a new process
    that reads them waits for the dead. So each start of all processes has its own part of the store.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port, patience = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), _PATIENCE[backend]
    store = dist.TCPStore(address, port, is_master=False, timeout=patience)
    store = dist.PrefixStore(_agreed_name(store, rank, size), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)


def _agreed_name(store: dist.Store, rank: int, size: int) -> str:
    """A new name that all living processes agree on, although the store may hold entries of earlier ones.

    Each process asks under a name of its own, and waits for the answer of process 0 to just this name.
    Raises OSError if a process does not come before the store's timeout.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", own)
        try:
            name = store.get(own).decode()
        except dist.DistStoreError as error:
            raise OSError(f"process 0 did not join process {rank} within {store.timeout}") from error
        store.set(f"{name}/{rank}", "")
        return name
    end = time.monotonic() + store.timeout.total_seconds()
    while waiting := [other for other in range(1, size) if not store.check([f"{own}/{other}"])]:
        if time.monotonic() > end:
            raise OSError(f"processes {waiting} of {size} did not join process 0 within {store.timeout}")
        for other in waiting:
            if store.check([f"asks/{other}"]):
                store.set(store.get(f"asks/{other}").decode(), own)
        time.sleep(0.05)
    return own


def data_parallel(model: nn.Module, deterministic: bool) -> DistributedDataParallel:
    """The model with its gradients averaged over processes in the backward pass.

    deterministic: add the gradients up in the same order in every step. Otherwise DDP changes the order after its first
    step, and one step of a resumed run would be rounded differently.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch names no replacement yet for the flag below
        # DDP does not change its order if it expects that some parameters may be unused.
        return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=deterministic)
