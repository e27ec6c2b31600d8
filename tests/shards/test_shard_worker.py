"""Tests of a worker by itself, in this process: what it holds, what it copies, and what it answers when a unit fails."""

import contextlib
import pickle
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sharding import finish_on_cpu, make_preparer, settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.launch.error_report import ReportedError
from partrain.networks import MLP
from partrain.packs.capacity import LiveBytesMode
from partrain.shards import device_worker
from partrain.shards.device_model import DeviceModel
from partrain.shards.device_worker import Worker, picklable_error
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.layout import ShardLayout
from partrain.shards.memory import DeviceMemory
from partrain.shards.messages import (
    AddModel,
    Prefetch,
    ProfileProgress,
    ProfileRequest,
    ProfileResult,
    RemoveModel,
    ShardSpec,
    StepProfile,
    UnitFailure,
    UnitResult,
)
from partrain.shards.scheduler import num_units, unit_at
from partrain.shards.settings import Shards
from partrain.shards.worker_pool import worker_settings
from partrain.training.context import LocalContext

CPU = torch.device("cpu")
ROOM = 400_000
"""The device's budget in bytes."""


@dataclass
class Wire:
    """A connection of a worker: the messages it receives, and the answers it sends."""

    messages: list[Any] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    def recv(self) -> Any:
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def send(self, answer: Any) -> None:
        self.answers.append(answer)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostMemory]:
    with contextlib.closing(HostMemory(tmp_path, on_disk=True)) as memory:
        yield memory


def make_model(small: Dataset, folder: Path, host: HostMemory, shard_settings: Shards) -> HostModel:
    """Return a model that is cut into shards for a device of ROOM bytes, and placed in host memory."""
    (task,) = write_tasks(folder, small, [settings_of(network=MLP(depth=12, width=48))])
    model = HostModel(task, folder.name, LocalContext())
    settings = replace(shard_settings, budget_gib=ROOM / 2**30, separate=True)
    finish_on_cpu(make_preparer(settings, host).prepare(model), settings)
    return model


def make_worker(*, double_buffer: bool = False) -> tuple[Worker, Wire]:
    """Return a worker of a device of ROOM bytes, and its connection."""
    wire = Wire()
    settings = Shards(budget_gib=ROOM / 2**30, separate=True, double_buffer=double_buffer)
    return Worker(wire, worker_settings(["cpu"], settings, threads=1)[0]), wire  # type: ignore[arg-type]


def do_step(worker: Worker, wire: Wire, models: list[HostModel]) -> list[int]:
    """Compute a step of each model, their units in turns, and return the bytes that were copied for each unit."""
    copied = []
    for position in range(max(num_units(len(model.versions)) for model in models)):
        for number, model in enumerate(models):
            num_shards = len(model.versions)
            if position >= num_units(num_shards):
                continue
            unit = unit_at(number, model.training.progress.step, position, num_shards)
            wire.messages.append(model.make_request(unit))
            worker.run()
            result = wire.answers.pop()
            assert isinstance(result, UnitResult), result
            copied.append(result.bytes_loaded)
            model.record(result)
    return copied


def in_host_memory(worker: Worker) -> list[torch.Tensor]:
    """Return the tensors in host memory that the worker has mapped: shards, outputs and gradients."""
    crossings = (crossing for crossings in worker.crossings.values() for pair in crossings for crossing in pair)
    return [*worker.memory.host_bytes.values(), *crossings]


@pytest.mark.parametrize("double_buffer", [False, True])
def test_what_is_on_the_device_is_never_more_than_the_budget(
    small: Dataset, tmp_path: Path, host: HostMemory, double_buffer: bool
) -> None:
    """Count every byte that a step makes and holds: shards, activations, gradients and temporaries."""
    shard_settings = Shards(activations="recompute", double_buffer=double_buffer)
    models = [make_model(small, tmp_path / name, host, shard_settings) for name in ("one", "other")]
    state = sum(shard.layout.num_bytes for model in models for shard in model.spec.shards)
    assert state > 3 * ROOM
    worker, wire = make_worker()  # It has one thread, since bytes are counted in one.
    wire.messages += [AddModel(number, model.spec) for number, model in enumerate(models)]
    do_step(worker, wire, models)
    worker.memory.residents.clear()  # All that is there is counted as it comes.
    with LiveBytesMode(ignored=in_host_memory(worker)) as live:
        do_step(worker, wire, models)
    # Generators' states are kept in the scheduler's process, which is this one here.
    num_crossings = sum(len(model.versions) - 1 for model in models)
    rng_bytes = num_crossings * torch.get_rng_state().nbytes
    assert ROOM / 2 < live.peak_bytes <= ROOM + rng_bytes
    assert worker.memory.peak_bytes <= ROOM


@pytest.mark.parametrize("double_buffer", [False, True])
def test_a_worker_that_waits_holds_nothing_that_memory_has_let_go_of(
    small: Dataset, tmp_path: Path, host: HostMemory, double_buffer: bool
) -> None:
    """Check that no tensor is held by a worker's threads, which wait with the last unit's names still bound."""
    model = make_model(small, tmp_path / "one", host, Shards())
    worker, wire = make_worker(double_buffer=double_buffer)
    references = []

    def receive() -> Any:
        if wire.messages:
            return wire.messages.pop(0)
        while not wire.answers:
            time.sleep(0.01)
        (resident,) = worker.memory.residents.values()
        while resident.in_use:
            time.sleep(0.01)
        references.append(weakref.ref(resident.buffer))
        del resident
        worker.memory.residents.clear()
        time.sleep(0.1)
        references.append(references[-1]())
        raise EOFError

    wire.recv = receive  # type: ignore[method-assign]
    wire.messages += [AddModel(0, model.spec), model.make_request(unit_at(0, 0, 0, len(model.versions)))]
    worker.run()
    assert len(references) == 2
    assert references[1] is None


def test_a_model_that_cannot_be_built_is_said_at_its_first_visit(
    small: Dataset, tmp_path: Path, host: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(small, tmp_path / "one", host, Shards())
    worker, wire = make_worker()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no coffee")

    with monkeypatch.context() as patch:
        patch.setattr(DeviceModel, "__init__", fail)
        wire.messages += [
            AddModel(0, model.spec),
            model.make_request(unit_at(0, 0, 0, len(model.versions))),
        ]
        worker.run()
    failure = wire.answers.pop()
    assert isinstance(failure, UnitFailure)
    assert str(failure.error) == "no coffee"


def test_a_shard_that_stays_is_not_copied_again(small: Dataset, tmp_path: Path, host: HostMemory) -> None:
    model = make_model(small, tmp_path / "one", host, Shards())
    worker, wire = make_worker()
    wire.messages.append(AddModel(0, model.spec))
    layouts = [shard.layout for shard in model.spec.shards]
    assert len(layouts) > 2
    copied = do_step(worker, wire, [model])
    assert copied[: len(layouts)] == [layout.forward_bytes for layout in layouts[:-1]] + [layouts[-1].num_bytes]
    assert copied[len(layouts)] in (0, layouts[-2].num_bytes - layouts[-2].forward_bytes, layouts[-2].num_bytes)
    wire.messages.append(Prefetch(0, 1, model.versions[1], is_backward=True))
    worker.run()
    wire.messages.append(Prefetch(0, 1, model.versions[1], is_backward=True))
    with LiveBytesMode() as live:
        worker.run()
    assert live.peak_bytes == 0


@pytest.mark.parametrize("double_buffer", [False, True])
def test_a_trial_has_the_device_to_itself(
    small: Dataset, tmp_path: Path, host: HostMemory, monkeypatch: pytest.MonkeyPatch, double_buffer: bool
) -> None:
    """Ask for a unit, a trial and another shard, and look at what is on the device during the trial."""
    model = make_model(small, tmp_path / "one", host, Shards())
    worker, wire = make_worker(double_buffer=double_buffer)
    profile = StepProfile(workspace_bytes=(), costs=(), crossings=())
    left = []

    def profile_step(*_: object, report_progress: Callable[[], None], **__: object) -> StepProfile:
        time.sleep(0.2)  # Another thread might copy the next shard in.
        left.extend([len(worker.memory.residents), len(wire.messages)])
        report_progress()
        return profile

    monkeypatch.setattr(device_worker, "profile_step", profile_step)
    wire.messages += [
        AddModel(0, model.spec),
        model.make_request(unit_at(0, 0, 0, len(model.versions))),
        ProfileRequest(model.spec),
        Prefetch(0, 1, 0, is_backward=False),
    ]
    worker.run()
    assert left == [0, 1]
    assert list(worker.memory.residents) == [(0, 1)]
    assert [type(answer) for answer in wire.answers] == [UnitResult, ProfileProgress, ProfileResult]
    assert wire.answers[-1] == ProfileResult(profile)


def test_a_unit_that_fails_is_said_and_other_models_go_on(
    small: Dataset, tmp_path: Path, host: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run out of memory once, as on a GPU, and check that the worker trains other models afterwards."""
    models = [make_model(small, tmp_path / name, host, Shards()) for name in ("one", "other")]
    worker, wire = make_worker()
    wire.messages += [AddModel(number, model.spec) for number, model in enumerate(models)]
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        patch.setattr(DeviceModel, "compute", fail)
        wire.messages.append(models[0].make_request(unit_at(0, 0, 0, len(models[0].versions))))
        worker.run()
    failure = wire.answers.pop()
    assert isinstance(failure, UnitFailure)
    assert isinstance(failure.error, torch.OutOfMemoryError)
    assert str(failure.error) == "CUDA out of memory. Tried to allocate 2.00 GiB"
    wire.messages.append(RemoveModel(0))
    worker.run()
    unit_numbers = do_step(worker, wire, [_Absent(), models[1]])  # type: ignore[list-item]
    assert len(unit_numbers) == num_units(len(models[1].versions))
    assert {key[0] for key in worker.memory.residents} == {1}


class _OwnError(UserError):
    """An error of a user's module, which cannot be unpickled from its message alone."""

    def __init__(self, setting: str, value: int) -> None:
        super().__init__(f"{setting} must be at least 1, got {value}")


class _OwnBug(ValueError):
    """A bug of a user's module, whose error cannot be unpickled from its message alone either."""

    def __init__(self, name: str, *, number: int) -> None:
        super().__init__(f"{name} {number}")


def sent(error: Exception) -> Exception:
    """Return `error` as the scheduler's process receives it, once a worker has raised it."""
    try:
        raise error
    except Exception as raised:
        received: Exception = pickle.loads(pickle.dumps(picklable_error(raised)))
    return received


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("network: give a width"), UserError, "network: give a width"),
        (_OwnError("width", 0), UserError, "width must be at least 1, got 0"),
        (FileNotFoundError(2, "No such file", "a.bin"), OSError, "[Errno 2] No such file: 'a.bin'"),
    ],
)
def test_the_error_of_a_user_or_of_the_system_keeps_its_message(
    error: Exception, kind: type[Exception], message: str
) -> None:
    received = sent(error)
    assert (type(received), str(received)) == (kind, message)


@pytest.mark.parametrize("error", [ValueError("shape [3]"), _OwnBug("shape", number=3)])
def test_any_other_error_arrives_with_its_traceback(error: Exception) -> None:
    received = sent(error)
    assert isinstance(received, ReportedError)
    assert (received.report.type, str(received)) == (type(error).__name__, str(error))
    assert (received.report.file, received.report.clear) == (__file__, False)
    assert "in sent\n    raise error\n" in received.report.traceback


class _Absent:
    """A stand-in for a model that has left."""

    versions = ()


def spec(num_bytes: int, folder: Path, work: int = 0) -> ShardSpec:
    """Return a shard of `num_bytes` bytes, whose units need `work` bytes besides."""
    path = folder / f"{num_bytes}-{work}"
    path.write_bytes(bytes(num_bytes))
    layout = ShardLayout({}, {}, (0, 0), num_bytes, num_bytes)
    return ShardSpec(start=None, stop=None, layout=layout, file=path, workspace_bytes=work)


def test_who_was_used_last_stays_longest(tmp_path: Path) -> None:
    memory = DeviceMemory(CPU, 100, uses_separate_buffers=True)
    for number in range(3):
        memory.release_stored(memory.acquire((number, 0), spec(30, tmp_path), 0), 0)
    memory.release_stored(memory.acquire((0, 0), spec(30, tmp_path), 0), 0)
    memory.acquire((3, 0), spec(30, tmp_path, work=10), 0)
    assert list(memory.residents) == [(2, 0), (0, 0), (3, 0)]
    assert memory.peak_bytes == 100


def test_a_shard_that_has_changed_elsewhere_is_copied_again(tmp_path: Path) -> None:
    memory = DeviceMemory(CPU, 100, uses_separate_buffers=True)
    first = memory.acquire((0, 0), spec(30, tmp_path), 0)
    first.loaded_bytes = 30
    memory.release_stored(first, 1)
    assert memory.acquire((0, 0), spec(30, tmp_path), 1) is first
    memory.release(first)
    again = memory.acquire((0, 0), spec(30, tmp_path), 2)
    assert (again is first, again.loaded_bytes) == (False, 0)


def test_one_that_is_alone_is_let_in_whatever_its_size(tmp_path: Path) -> None:
    memory = DeviceMemory(CPU, 10, uses_separate_buffers=True)
    assert len(memory.acquire((0, 0), spec(30, tmp_path), 0).buffer) == 30
