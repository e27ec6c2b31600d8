"""The process that computes on one device: units come, their shards are copied in, computed and copied back.

Three threads with a unit in each: one copies in, one computes, one copies back. Without double buffering one does all.
"""

import gc
import os
import queue
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from partrain.device import synchronize
from partrain.shards.device_model import DeviceModel, UnitInputs
from partrain.shards.host import map_file
from partrain.shards.memory import DeviceMemory, ResidentShard, copy_bytes
from partrain.shards.messages import (
    AddModel,
    CrossingSpec,
    Prefetch,
    RemoveModel,
    UnitFailure,
    UnitRequest,
    UnitResult,
    WorkerSettings,
)

Message = AddModel | UnitRequest | Prefetch | RemoveModel


@dataclass
class _Task:
    """A request on its way through the worker: what it has to compute with, and what comes of it."""

    request: UnitRequest
    result: UnitResult
    resident: ResidentShard | None = None
    features: Tensor | None = None
    gradient: Tensor | None = None
    output: Tensor | None = None
    error: Exception | None = None


class Worker:
    """Does what comes over `connection`, in order, until it is closed."""

    def __init__(self, connection: Connection, settings: WorkerSettings) -> None:
        self.connection, self.settings = connection, settings
        self.device = torch.device(settings.device)
        self.memory = DeviceMemory(
            self.device, settings.budget_bytes, uses_separate_buffers=settings.uses_separate_buffers
        )
        self.models: dict[int, DeviceModel] = {}
        self.broken: dict[int, Exception] = {}  # why a model could not be built
        self.crossings: dict[int, list[tuple[Tensor, Tensor]]] = {}  # outputs and gradients in host memory, once used

    def run(self) -> None:
        if self.settings.double_buffer:
            self._run_in_threads()
            return
        while (message := self._receive()) is not None:
            if task := self.load(message):
                self.compute(task)
                self.store(task)

    def _run_in_threads(self) -> None:
        loaded: queue.Queue[_Task | None] = queue.Queue()
        computed: queue.Queue[_Task | None] = queue.Queue()

        def load_all() -> None:
            while (message := self._receive()) is not None:
                if task := self.load(message):
                    loaded.put(task)
            loaded.put(None)

        def store_all() -> None:
            while (task := computed.get()) is not None:
                self.store(task)

        threads = [threading.Thread(target=_or_die, args=(target,), daemon=True) for target in (load_all, store_all)]
        for thread in threads:
            thread.start()
        while (task := loaded.get()) is not None:
            self.compute(task)
            computed.put(task)
        computed.put(None)
        for thread in threads:
            thread.join()

    def _receive(self) -> Message | None:
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):  # the scheduler is gone
            return None
        return message

    # ---- the three parts of a request

    def load(self, message: Message) -> _Task | None:
        """Copy a request's shard and what its neighbours have left it to the device; take note of anything else."""
        if isinstance(message, AddModel):
            try:
                self.models[message.model_id] = DeviceModel(
                    message.spec, self.device, shards_move=self.settings.uses_separate_buffers
                )
            except Exception as error:
                self.broken[message.model_id] = error  # which its first request will say
            return None
        if isinstance(message, RemoveModel):
            self.memory.evict_model(message.model_id)
            self.crossings.pop(message.model_id, None)
            self.broken.pop(message.model_id, None)
            if self.models.pop(message.model_id, None) is not None:
                gc.collect()  # modules refer to themselves, and to what they have bound
            return None
        if isinstance(message, Prefetch):
            with suppress(Exception):  # the model has left meanwhile, or its request will say what is wrong
                self.memory.release(
                    self._fetch(message.model_id, message.shard, message.version, message.is_backward)[0]
                )
            return None
        task = _Task(message, UnitResult(unit=message.unit))
        self._attempt(task, self._load)
        return task

    def _load(self, task: _Task) -> None:
        unit, began = task.request.unit, time.time()
        if unit.model_id in self.broken:
            raise self.broken[unit.model_id]
        spec, crossings = self.models[unit.model_id].spec, self._crossings(unit.model_id)
        task.resident, task.result.bytes_loaded = self._fetch(
            unit.model_id, unit.shard, task.request.version, unit.is_backward
        )
        if unit.shard > 0 and (unit.is_forward or not spec.keeps_activations):
            task.features = _copied(crossings[unit.shard - 1][0], self.device)
        if not unit.is_forward:
            task.gradient = _copied(crossings[unit.shard][1], self.device)
        task.result.load_span = began, time.time()

    def _fetch(self, model: int, shard: int, version: int, backward: bool) -> tuple[ResidentShard, int]:
        """The shard on the device, and how many bytes had to be copied for it."""
        spec = self.models[model].spec.shards[shard]
        resident = self.memory.acquire((model, shard), spec, version)
        until = spec.layout.num_bytes if backward else spec.layout.forward_bytes
        if not self.settings.uses_separate_buffers or resident.loaded_bytes >= until:
            return resident, 0
        part = slice(resident.loaded_bytes, until)
        copy_bytes(resident.host[part], resident.buffer[part])
        resident.loaded_bytes = until
        return resident, until - part.start

    def _crossings(self, model: int) -> list[tuple[Tensor, Tensor]]:
        if model not in self.crossings:
            self.crossings[model] = [_views(each.file, each) for each in self.models[model].spec.crossings]
        return self.crossings[model]

    def compute(self, task: _Task) -> None:
        self._attempt(task, self._compute)

    def _compute(self, task: _Task) -> None:
        assert task.resident is not None
        began, model = time.time(), self.models[task.request.unit.model_id]
        task.output, task.gradient = model.compute(
            task.request, task.result, UnitInputs(task.resident.buffer, task.features, task.gradient)
        )
        task.features = None
        synchronize(self.device)
        task.result.compute_span = began, time.time()

    def store(self, task: _Task) -> None:
        """Copy what has changed back, and say so."""
        self._attempt(task, self._store)
        resident, request, error = task.resident, task.request, task.error
        answer = task.result if error is None else UnitFailure(unit=request.unit, error=_portable(error))
        version = request.version + 1 if error is None else -1
        task.resident = task.features = task.gradient = task.output = task.error = error = None  # others need the room
        if resident is not None:
            self.memory.release_stored(resident, version)
        task.result.peak_bytes = self.memory.peak_bytes
        self.connection.send(answer)

    def _store(self, task: _Task) -> None:
        unit, resident = task.request.unit, task.resident
        assert resident is not None
        began = time.time()
        layout = self.models[unit.model_id].spec.shards[unit.shard].layout
        changed = slice(0, layout.num_bytes) if unit.is_backward else slice(*layout.buffer_range)
        if self.settings.uses_separate_buffers and changed.start < changed.stop:
            copy_bytes(resident.buffer[changed], resident.host[changed])
        crossings = self._crossings(unit.model_id)
        if task.output is not None:
            crossings[unit.shard][0].copy_(task.output)
        if task.gradient is not None:
            crossings[unit.shard - 1][1].copy_(task.gradient)
        task.output = task.gradient = None
        task.result.store_span = began, time.time()

    def _attempt(self, task: _Task, part: Callable[[_Task], None]) -> None:
        """Do a part of the request, unless an earlier one has failed; one model's failure is not the others'."""
        if task.error is None:
            try:
                part(task)
            except Exception as error:
                task.error = error


def _or_die(target: Callable[[], None]) -> None:
    """A thread's whole life: without it the worker would wait for ever, so that it had better be replaced."""
    try:
        target()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _views(file: Path, crossing: CrossingSpec) -> tuple[Tensor, Tensor]:
    held = map_file(file)
    return crossing.output.view(held), crossing.gradient.view(held)


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`, and not the host's own."""
    return tensor.clone() if device.type == "cpu" else tensor.to(device)


def _portable(error: Exception) -> Exception:
    """Such an error as can be sent: errors of users' own modules may not be."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(str(error))
    if isinstance(error, ValueError | OSError):
        return ValueError(str(error))
    told = f"{type(error).__name__}: {error}\n"
    return RuntimeError(told + "".join(traceback.format_exception(error)))


def main(descriptor: int) -> None:
    """A worker process's whole life. Ctrl-C is its launcher's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    settings = connection.recv()
    assert isinstance(settings, WorkerSettings)
    torch.set_num_threads(settings.threads)
    Worker(connection, settings).run()
    for (
        folder
    ) in settings.scratch_folders:  # the scheduler's process may have been killed, and would hold memory for ever
        shutil.rmtree(folder, ignore_errors=True)
