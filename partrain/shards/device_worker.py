"""A device's worker process: it copies shards in from host memory, computes their units, and copies them back.

With double buffering three threads work at once, each on a unit of its own:

    loading     unit 1   unit 2   unit 3   ...
    computing            unit 1   unit 2   unit 3   ...
    storing                       unit 1   unit 2   unit 3   ...

Otherwise one thread does the three parts of each unit in turn. The trial of a model that is to join is computed between
units, when nothing else is on the device.
"""

import gc
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from partrain.device import is_cpu, release_unused_memory, synchronize
from partrain.errors import UserError
from partrain.launch.error_report import ErrorReport, ReportedError
from partrain.shards.device_model import DeviceModel, UnitInputs
from partrain.shards.host import map_file
from partrain.shards.memory import DeviceMemory, ResidentShard, copy_bytes
from partrain.shards.messages import (
    AddModel,
    Answer,
    CrossingSpec,
    Message,
    Prefetch,
    ProfileProgress,
    ProfileRequest,
    ProfileResult,
    RemoveModel,
    StepProfile,
    UnitFailure,
    UnitRequest,
    UnitResult,
    WorkerSettings,
)
from partrain.shards.profiler import profile_step
from partrain.shards.scratch import remove_scratch

_FAILED_VERSION = -1
"""The version of a shard on the device after its unit failed, so that it is copied again."""


def main(arguments: Sequence[str]) -> int:
    """Run a worker process until the scheduler closes its connection, which is the standard input.

    The connection's first message is the worker's settings. There are no arguments.
    """
    # A terminal sends Ctrl-C to all processes, and the scheduler decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(os.dup(sys.stdin.fileno()))
    settings = connection.recv()
    assert isinstance(settings, WorkerSettings)
    try:
        torch.set_num_threads(settings.threads)
        Worker(connection, settings).run()
    finally:
        _remove_scratch_if_left_alone(connection, settings)
    return 0


def _remove_scratch_if_left_alone(connection: "Connection[Answer, Message]", settings: WorkerSettings) -> None:
    """Free the shared memory if the scheduler's end of the connection is closed: it was killed, and nobody else would.

    Messages that are still to be read do not matter, and are not read, since another thread may be reading.
    """
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # A closed end is always reported.
    if poll.poll(0):
        for folder in settings.scratch_folders:
            remove_scratch(folder)


@dataclass
class _UnitExecution:
    """The execution of one unit: its request, the tensors it is computed from, and its result."""

    request: UnitRequest
    result: UnitResult
    resident: ResidentShard | None = None
    features: Tensor | None = None
    """The output of the shard before, copied to the device [batch, *shape]."""
    gradient: Tensor | None = None
    """The gradient of the shard's output, and once that is computed, of its features [batch, *shape]."""
    output: Tensor | None = None
    """The output of a forward pass [batch, *shape]."""
    error: Exception | None = None

    def release_tensors(self) -> None:
        """Drop all references to memory of the device, which other units need."""
        self.resident = self.features = self.gradient = self.output = None


@dataclass
class _Trial:
    """A trial of a model that is to join, for which the device is free of all others."""

    request: ProfileRequest
    outcome: StepProfile | Exception | None = None
    is_computed: threading.Event = field(default_factory=threading.Event)


_Work = _UnitExecution | _Trial


class Worker:
    """A worker, which handles the messages of a connection in their order until the connection is closed.

    Args:
        connection: The connection to the scheduler's process.
        settings: The worker's settings.
    """

    def __init__(self, connection: "Connection[Answer, Message]", settings: WorkerSettings) -> None:
        self.connection = connection
        self.settings = settings
        self.device = torch.device(settings.device)
        self.memory = DeviceMemory(
            self.device, settings.budget_bytes, uses_separate_buffers=settings.uses_separate_buffers
        )
        self._send_lock = threading.Lock()
        self.models: dict[int, DeviceModel] = {}
        self.build_errors: dict[int, Exception] = {}
        """The errors of models that could not be built, which their first unit reports."""
        self.crossings: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """The (output, gradient) pairs in host memory between neighbouring shards, of each model that was used."""

    def run(self) -> None:
        """Compute all units that are requested, until the connection is closed."""
        if self.settings.double_buffer:
            self._run_in_threads()
            return
        for work in self._load_work():
            self._compute_work(work)
            self._store_work(work)

    def _run_in_threads(self) -> None:
        """Load, compute and store units in a thread each. None in a queue marks its end."""
        loaded: queue.Queue[_Work | None] = queue.Queue()
        computed: queue.Queue[_Work | None] = queue.Queue()

        def load_all() -> None:
            for work in self._load_work():
                loaded.put(work)
            loaded.put(None)

        def store_all() -> None:
            while (work := computed.get()) is not None:
                self._store_work(work)

        threads = [
            threading.Thread(target=self._exit_on_error, args=(target,), daemon=True)
            for target in (load_all, store_all)
        ]
        for thread in threads:
            thread.start()
        while (work := loaded.get()) is not None:
            self._compute_work(work)
            computed.put(work)
        computed.put(None)
        for thread in threads:
            thread.join()

    def _exit_on_error(self, target: Callable[[], None]) -> None:
        """Run a thread's function, and end the process on any error: without the thread the worker would wait forever."""
        try:
            target()
        except BaseException:
            try:
                traceback.print_exc()
                _remove_scratch_if_left_alone(self.connection, self.settings)
            finally:
                os._exit(1)

    # ---- Messages.

    def _load_work(self) -> Iterator[_Work]:
        """Yield the requested units with their inputs on the device, and handle all other messages in between."""
        while (message := self._receive()) is not None:
            if isinstance(message, UnitRequest):
                yield self._load_unit(message)
            elif isinstance(message, AddModel):
                self._add_model(message)
            elif isinstance(message, RemoveModel):
                self._remove_model(message)
            elif isinstance(message, ProfileRequest):
                self.memory.evict_all()
                trial = _Trial(message)
                yield trial
                trial.is_computed.wait()  # The device is the trial's until then.
            else:
                self._prefetch(message)

    def _receive(self) -> Message | None:
        """Return the next message, or None if the scheduler has closed the connection."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def _add_model(self, message: AddModel) -> None:
        """Build a model. An error is kept for its first unit, since only units are answered."""
        try:
            self.models[message.model_id] = DeviceModel(
                message.spec, self.device, shards_move=self.settings.uses_separate_buffers
            )
        except Exception as error:
            self.build_errors[message.model_id] = error

    def _remove_model(self, message: RemoveModel) -> None:
        """Drop all that belongs to a model."""
        self.memory.evict_model(message.model_id)
        self.crossings.pop(message.model_id, None)
        self.build_errors.pop(message.model_id, None)
        if self.models.pop(message.model_id, None) is not None:
            gc.collect()  # Modules refer to themselves, and to the memory that is bound to them.

    def _prefetch(self, message: Prefetch) -> None:
        """Copy a shard to the device that a unit is likely to need next."""
        # The model may have been removed meanwhile. Any other error recurs in the unit's own request, which reports it.
        with suppress(Exception):
            resident, _ = self._fetch(
                message.model_id, message.shard, message.version, needs_optimizer_state=message.is_backward
            )
            self.memory.release(resident)

    # ---- The three parts of a unit. An error in one is reported by the last, and other models go on.

    def _load_unit(self, request: UnitRequest) -> _UnitExecution:
        """Copy to the device what a unit is computed from."""
        execution = _UnitExecution(request, UnitResult(unit=request.unit))
        _attempt(execution, self._load)
        return execution

    def _compute_work(self, work: _Work) -> None:
        """Compute a unit whose inputs are loaded, or a trial."""
        if isinstance(work, _Trial):
            self._profile(work)
        else:
            _attempt(work, self._compute)

    def _store_work(self, work: _Work) -> None:
        """Send the result or the error of a unit or of a trial, once the unit's changes are in host memory."""
        if isinstance(work, _Trial):
            assert work.outcome is not None
            self._send(ProfileResult(work.outcome))
        else:
            self._store_unit(work)

    def _store_unit(self, execution: _UnitExecution) -> None:
        """Copy what a unit has changed back to host memory, and send its result or its error."""
        _attempt(execution, self._store)
        answer, version = self._answer(execution)
        resident = execution.resident
        execution.release_tensors()
        if resident is not None:
            self.memory.release_stored(resident, version)
        execution.result.peak_bytes = self.memory.peak_bytes
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        """Send an answer. A trial reports its progress while another thread may still send the last unit's result."""
        with self._send_lock:
            self.connection.send(answer)

    def _answer(self, execution: _UnitExecution) -> tuple[Answer, int]:
        """Return a unit's answer, and the version of its shard on the device."""
        if execution.error is None:
            return execution.result, execution.request.version + 1
        failure = UnitFailure(unit=execution.request.unit, error=picklable_error(execution.error))
        execution.error = None  # Its traceback refers to tensors on the device.
        return failure, _FAILED_VERSION

    def _load(self, execution: _UnitExecution) -> None:
        """Copy a unit's shard to the device, and what its neighbours computed for it."""
        begin = time.time()
        unit = execution.request.unit
        if unit.model_id in self.build_errors:
            raise self.build_errors[unit.model_id]
        execution.resident, execution.result.bytes_loaded = self._fetch(
            unit.model_id, unit.shard, execution.request.version, needs_optimizer_state=unit.is_backward
        )

        crossings = self._model_crossings(unit.model_id)
        computes_forward = unit.is_forward or not self.models[unit.model_id].spec.keeps_activations
        if unit.shard > 0 and computes_forward:
            output, _ = crossings[unit.shard - 1]
            execution.features = _copy_to(output, self.device)
        if not unit.is_forward:
            _, gradient = crossings[unit.shard]
            execution.gradient = _copy_to(gradient, self.device)
        execution.result.load_span = begin, time.time()

    def _compute(self, execution: _UnitExecution) -> None:
        """Compute a unit on the device."""
        assert execution.resident is not None
        begin = time.time()
        model = self.models[execution.request.unit.model_id]
        inputs = UnitInputs(execution.resident.buffer, execution.features, execution.gradient)
        execution.output, execution.gradient = model.compute(execution.request, execution.result, inputs)
        execution.features = None
        synchronize(self.device)
        execution.result.compute_span = begin, time.time()

    def _store(self, execution: _UnitExecution) -> None:
        """Copy what a unit has changed back to host memory: the shard's bytes, its output or its features' gradient."""
        assert execution.resident is not None
        begin = time.time()
        unit = execution.request.unit
        layout = self.models[unit.model_id].spec.shards[unit.shard].layout
        changed = layout.changed_range(is_backward=unit.is_backward)
        if self.settings.uses_separate_buffers and changed.start < changed.stop:
            copy_bytes(execution.resident.buffer[changed], execution.resident.host[changed])

        crossings = self._model_crossings(unit.model_id)
        if execution.output is not None:
            crossings[unit.shard][0].copy_(execution.output)
        if execution.gradient is not None:
            crossings[unit.shard - 1][1].copy_(execution.gradient)
        execution.output = execution.gradient = None
        execution.result.store_span = begin, time.time()

    def _fetch(
        self, model_id: int, shard: int, version: int, *, needs_optimizer_state: bool
    ) -> tuple[ResidentShard, int]:
        """Return a shard with its bytes on the device, and how many bytes had to be copied for that."""
        spec = self.models[model_id].spec.shards[shard]
        resident = self.memory.acquire((model_id, shard), spec, version)
        needed = spec.layout.needed_bytes(is_backward=needs_optimizer_state)
        if not self.settings.uses_separate_buffers or resident.loaded_bytes >= needed:
            return resident, 0
        missing = slice(resident.loaded_bytes, needed)
        copy_bytes(resident.host[missing], resident.buffer[missing])
        resident.loaded_bytes = needed
        return resident, missing.stop - missing.start

    def _profile(self, trial: _Trial) -> None:
        """Compute the steps of a trial. An error belongs to its model."""
        try:
            trial.outcome = profile_step(
                trial.request.spec,
                self.device,
                uses_separate_buffers=self.settings.uses_separate_buffers,
                report_progress=lambda: self._send(ProfileProgress()),
            )
        except Exception as error:
            trial.outcome = picklable_error(error)
        gc.collect()  # Modules refer to themselves, and to the memory that is bound to them.
        release_unused_memory(self.device)  # Other workers may be on the same device.
        trial.is_computed.set()

    def _model_crossings(self, model_id: int) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors in host memory between a model's shards, as (output, gradient) pairs."""
        if model_id not in self.crossings:
            crossings = self.models[model_id].spec.crossings
            self.crossings[model_id] = [_map_crossing(crossing) for crossing in crossings]
        return self.crossings[model_id]


def _attempt(execution: _UnitExecution, part: Callable[[_UnitExecution], None]) -> None:
    """Do one part of a unit and record its error, unless an earlier part has failed."""
    if execution.error is not None:
        return
    try:
        part(execution)
    except Exception as error:
        execution.error = error


def _map_crossing(crossing: CrossingSpec) -> tuple[Tensor, Tensor]:
    """Return a crossing's output and its gradient, in host memory."""
    mapped = map_file(crossing.file)
    return crossing.output.view(mapped), crossing.gradient.view(mapped)


def _copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy of a tensor in host memory on `device`, also where the device is the CPU."""
    return tensor.clone() if is_cpu(device) else tensor.to(device)


def picklable_error(error: Exception) -> Exception:
    """Return an error that can be sent to the scheduler's process, since those of users' modules may not unpickle.

    A mistake of the user, of the system or of memory keeps its class. Any other error becomes a `ReportedError`.
    """
    for kind in (torch.OutOfMemoryError, UserError, OSError):
        if isinstance(error, kind):
            return kind(str(error))
    return ReportedError(ErrorReport.from_exception(error))
