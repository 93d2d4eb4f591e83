"""Encodes files on the machines of a Ray cluster: CPUs decode, and GPUs, where there are any, run the model.

All machines have to see the files under the same paths. Decoding a unit is a task, and each model is an actor. Arrays
go from one to the other without passing through the process that asks, which gets the results only.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import numpy as np

from stgt.data.isolated import Failure, Worker
from stgt.extras import naming_the_extra

logger = logging.getLogger(__name__)

Unit, Result = TypeVar("Unit"), TypeVar("Result")

IN_FLIGHT = 4
"""Units for each CPU of the cluster that are given out and not yet taken back"""
MOST_IN_FLIGHT = 500
"""The most units that are given out and not yet taken back. Each may hold a lock, and so a file descriptor"""
NOTICE = 30.0
"""Seconds of waiting after which the log says what is free on the cluster. It repeats this after as many seconds"""
PATIENCE = 600.0
"""Seconds after which a call fails if no model could be loaded"""


def encode_on_ray(
    units: Iterable[Unit],
    read: Callable[[Unit], tuple[np.ndarray, ...]],
    encode: Callable[..., Result],
    *,
    timeout: float,
) -> Iterator[Result | Failure]:
    """Yield encode(*read(unit)) of each unit, or a `Failure`, in the order of the units.

    units: they are taken one after the other, when there is room for them. read: it runs on CPUs, in a process that is
    killed after `timeout` seconds. encode: it runs on each GPU of the cluster, or on half of the CPUs if there is none;
    if it has a `network`, that module is sent from the CPU and moved to the GPU there. All are pickled.
    A unit fails if `read` fails. If the processes that work on a unit are lost, it is tried once more while no other
    unit is worked on, and it fails if they are lost again. Raises any error of `encode`;
    OSError if a machine of the cluster cannot load it, if all processes die while they load it, and if other jobs leave
    no room for it; and ModuleNotFoundError if Ray is not installed.
    """
    with naming_the_extra():
        import ray

    _connect(ray)
    crew = _Crew(ray, read, encode, timeout)
    waiting, rest = deque(), iter(units)
    try:
        while True:
            for unit in itertools.islice(rest, crew.room - len(waiting)):
                waiting.append(crew.give(unit))
            if not waiting:
                return
            yield crew.result(waiting.popleft(), waiting)
    finally:
        crew.stop()


@dataclass
class _Given:
    """A unit that is being worked on."""

    unit: object
    model: object
    result: object
    """Ray's reference to the result"""


class _Crew:
    """The tasks and actors of one call.

    An actor works as soon as it has loaded the model. One that is lost later is replaced; one that dies while it loads
    the model is not.
    """

    def __init__(self, ray: ModuleType, read: Callable, encode: Callable, timeout: float) -> None:
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self._whole = {"GPU": gpus, "CPU": cpus}
        self.room = min(IN_FLIGHT * max(cpus, 1), MOST_IN_FLIGHT)
        self._ray, self._timeout, self._key = ray, timeout, uuid.uuid4().hex
        # A reference in a list is fetched by who needs it first, and not for each call.
        self._read, self._encode = [ray.put(read)], [_put_from_cpu(ray, encode)]
        self._reader = ray.remote(num_cpus=1, max_retries=0)(_read)
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1 if cpus > 1 else 0}
        self._start = ray.remote(**needs)(_Model).remote
        self._models: deque[object] = deque()
        """The actors that have loaded the model"""
        self._loading: dict[object, object] = {}
        """The actors that are still loading it, by Ray's reference to the end of their start"""
        for _ in range(gpus or max(1, cpus // 2)):
            self._begin()

    def give(self, unit: object) -> _Given:
        """Begin to work on a unit. Models take turns."""
        self._admit(0)
        if not self._models:
            self._wait_for_a_model()
        self._models.rotate(-1)
        model = self._models[-1]
        found = self._reader.remote(self._key, self._read, unit, self._timeout)
        return _Given(unit, model, model.encode.remote(found))

    def _begin(self) -> None:
        model = self._start(self._encode)
        self._loading[model.loaded.remote()] = model

    def _admit(self, seconds: float) -> None:
        """Take those actors that have loaded the model. If there is none yet, wait so many seconds for one."""
        if not self._loading:
            return
        done, _ = self._ray.wait([*self._loading], num_returns=1 if seconds else len(self._loading), timeout=seconds)
        for loaded in done:
            model = self._loading.pop(loaded)
            try:
                self._ray.get(loaded)
            except self._ray.exceptions.RayActorError as error:
                if error.actor_init_failed:  # no unit is at fault, and all would fail
                    raise OSError(f"the model cannot be loaded on the Ray cluster: {error}") from None
                logger.warning("a process of the Ray cluster died while it loaded the model (perhaps of full memory)")
            else:
                self._models.append(model)

    def _wait_for_a_model(self) -> None:
        """Wait until an actor has loaded the model.

        Raises OSError if all actors died, and if the cluster has had no room for one for PATIENCE seconds.
        """
        end = time.monotonic() + PATIENCE
        while not self._models:
            if not self._loading:
                raise OSError("all processes of the Ray cluster that loaded the model died; their memory may be full")
            if time.monotonic() > end:
                raise OSError(f"no model could be loaded on the Ray cluster within {PATIENCE:g} s: {self._free()}")
            self._admit(NOTICE)
            if self._loading and not self._models:
                logger.warning("waiting for a model on the Ray cluster: %s", self._free())

    def _free(self) -> str:
        free = self._ray.available_resources()
        counts = [f"{free.get(kind, 0):g} of {count} {kind}s" for kind, count in self._whole.items() if count]
        return f"{' and '.join(counts)} are free; this job and others hold the rest"

    def result(self, given: _Given, others: Iterable[_Given]) -> object:
        """Wait for the result of a unit.

        If processes were lost, perhaps by another unit, the unit is worked on once more, when no others are.
        """
        try:
            return self._found(given)
        except self._ray.exceptions.RayError:
            if references := [other.result for other in others]:
                self._ray.wait(references, num_returns=len(references))
        try:
            return self._found(self.give(given.unit))
        except self._ray.exceptions.RayError as error:
            return Failure(f"the processes that worked on it were lost ({type(error).__name__})")

    def _found(self, given: _Given) -> object:
        """The result of a unit. Raises the error of the model, or one of Ray if processes were lost."""
        errors = self._ray.exceptions
        while not self._ray.wait([given.result], timeout=self._timeout + NOTICE)[0]:
            logger.warning("waiting for a unit on the Ray cluster: %s", self._free())
        try:
            return self._ray.get(given.result)
        except errors.RayError as error:
            cause = error.cause if isinstance(error, errors.RayTaskError) else error
            if isinstance(cause, errors.RayActorError) and given.model in self._models:
                self._models.remove(given.model)
                self._begin()
            raise cause from None

    def stop(self) -> None:
        for model in (*self._models, *self._loading.values()):
            self._ray.kill(model)


def _put_from_cpu(ray: ModuleType, encode: Callable) -> object:
    """Ray's reference to `encode`. Its network lies on the CPU meanwhile: other machines may have no GPU."""
    network = getattr(encode, "network", None)
    device = None if network is None else next((each.device for each in network.parameters()), None)
    if device is None or device.type == "cpu":
        return ray.put(encode)
    network.to("cpu")
    try:
        return ray.put(encode)
    finally:
        network.to(device)


def _connect(ray: ModuleType) -> None:
    """Join the cluster that RAY_ADDRESS names or that runs on this machine, or start one of this machine alone."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray has set its own, which ends a command with another status


class _Model:
    """The actor that holds a model."""

    def __init__(self, place: list) -> None:
        import ray

        self._encode = ray.get(place[0])
        if ray.get_gpu_ids() and (network := getattr(self._encode, "network", None)) is not None:
            network.to("cuda")  # the only GPU that Ray shows to this process

    def loaded(self) -> None:
        """Ends when the model is loaded, since calls of an actor wait for its start."""

    def encode(self, found: tuple[np.ndarray, ...] | Failure) -> object:
        if isinstance(found, Failure):
            return found
        return self._encode(*(np.array(part) for part in found))  # Ray's own arrays cannot be written


_worker: tuple[str, Worker] | None = None
"""The process that decodes for this process of Ray, and the key of the call that it belongs to"""


def _read(key: str, place: list, unit: object, timeout: float) -> object:
    """Decode a unit in a process of its own, which can be killed. The process is kept for further units."""
    import ray

    global _worker
    if _worker is None or _worker[0] != key:
        if _worker is not None:
            _worker[1].stop()
        _worker = key, Worker(ray.get(place[0]), timeout)
    return _worker[1].call(unit)
