"""Tests of trials: a worker's process computes them, whatever happens to it, and the others train meanwhile."""

from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sharding import TIGHT, settings_of
from trainings import difference, train, write_tasks
from trial_worker import LATER, TRIAL
from worker_with_word import FOLDER

from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.networks import MLP
from partrain.settings import RunSettings
from partrain.shards import worker_process
from partrain.shards.device_model import DeviceModel
from partrain.shards.driver import ShardedTraining
from partrain.shards.messages import ProfileProgress, ProfileRequest, ProfileResult
from partrain.shards.session import Session
from partrain.shards.settings import Shards
from partrain.shards.simulator import read_loads
from partrain.shards.train import train_sharded
from partrain.shards.worker_pool import worker_settings
from partrain.shards.worker_process import WorkerProcess
from partrain.storage.run_folder import CHECKPOINT

SHARD_SETTINGS = Shards(budget_gib=TIGHT)
DROPOUT = MLP(depth=4, width=32, dropout=0.3)


@pytest.fixture
def let_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that lets all trials, or those of the model in a folder, go as `trial_worker` says."""

    def let(how: str, folder: Path | None = None) -> None:
        monkeypatch.setattr(worker_process, "_MODULE", "trial_worker")
        monkeypatch.setenv(TRIAL, how)
        monkeypatch.setenv(LATER, str(folder))
        monkeypatch.setenv(FOLDER, str(tmp_path))

    return let


def alone_and_sharded(small: Dataset, tmp_path: Path, settings: list[RunSettings]) -> tuple[list[Path], list[Path]]:
    """Train a model of each of the settings alone, and return their tasks' folders, and those of others to train."""
    alone, sharded = (write_tasks(tmp_path / name, small, settings) for name in ("alone", "sharded"))
    for task in alone:
        train(task)
    return alone, sharded


def test_the_callers_process_computes_nothing_and_keeps_its_generator_and_threads(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = write_tasks(tmp_path, small, [settings_of(network=DROPOUT)])
    monkeypatch.setattr(DeviceModel, "__init__", None)  # It cannot be made in this process.
    torch.manual_seed(42)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(threads + 2)
    try:
        settings = Shards(budget_gib=TIGHT)
        assert train_sharded([task], ["cpu"], tmp_path / "shards", settings, show_progress=False) == {}
        assert torch.get_num_threads() == threads + 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_worker_that_runs_out_of_memory_in_a_trial_gets_smaller_shards(
    small: Dataset, tmp_path: Path, let_trials: Callable[..., None]
) -> None:
    (alone,), (task,) = alone_and_sharded(small, tmp_path, [settings_of(network=MLP(depth=8, width=32))])
    let_trials("little_memory")
    settings = Shards(budget_gib=800_000 / 2**30)
    assert train_sharded([task], ["cpu"], tmp_path / "shards", settings, show_progress=False) == {}
    (load,) = read_loads(tmp_path / "shards/costs.json")
    assert load.num_shards >= 4
    assert difference([task], [alone]) == 0


def test_an_error_in_a_trial_is_the_models_own(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_trials: Callable[..., None]
) -> None:
    """One of the first models and one that joins are named alike, and the others go on; alone, its error is raised."""
    networks = [DROPOUT, MLP(depth=5, width=32)]
    alone, tasks = alone_and_sharded(small, tmp_path, [settings_of(network=network) for network in networks])
    let_trials("bug", tasks[1])
    with pytest.raises(
        JobFailed, match=r" failed in .*trial_worker\.py, line 33: IndexError: list index out of range\. "
    ):
        train_sharded(tasks[1:], ["cpu"], tmp_path / "one", SHARD_SETTINGS, show_progress=False)
    failures = train_sharded([tasks[1], tasks[0]], ["cpu"], tmp_path / "two", SHARD_SETTINGS, show_progress=False)
    assert failures == {tasks[1]: "list index out of range"}
    assert difference(tasks[:1], alone[:1]) == 0
    (tasks[0] / CHECKPOINT).unlink()

    training = ShardedTraining(["cpu"], tmp_path / "shards", SHARD_SETTINGS, show_progress=False)
    add_model = Session.add_model

    def add_another(self: Session, *arguments: object) -> None:
        add_model(self, *arguments)  # type: ignore[arg-type]
        training.add(tasks[1])

    monkeypatch.setattr(Session, "add_model", add_another)
    training.add(tasks[0])
    training.run()
    assert training.failures == {tasks[1]: "list index out of range"}
    assert difference(tasks[:1], alone[:1]) == 0


@pytest.mark.parametrize(
    ("how", "reason"), [("die", "died"), ("hang", "spent more than 5 s on one unit")], ids=["die", "hang"]
)
def test_a_worker_that_is_lost_in_a_trial_is_replaced_and_the_trial_repeated(
    small: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    let_trials: Callable[..., None],
    how: str,
    reason: str,
) -> None:
    (alone,), (task,) = alone_and_sharded(small, tmp_path, [settings_of(network=DROPOUT)])
    let_trials(how)
    settings = Shards(budget_gib=TIGHT, stall_seconds=5.0)
    assert train_sharded([task], ["cpu"] * 2, tmp_path / "shards", settings, show_progress=False) == {}
    assert f"Worker 0 {reason}; a new process replaces it, and 0 models will resume" in capsys.readouterr().out
    assert difference([task], [alone]) == 0


@pytest.mark.parametrize(("activations", "loses_worker"), [("keep", False), ("recompute", False), ("keep", True)])
def test_the_others_are_trained_while_a_model_that_joins_is_tried(
    small: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    let_trials: Callable[..., None],
    activations: str,
    loses_worker: bool,
) -> None:
    """Let the trial of a model that joins end only once the other one has done more than a step meanwhile."""
    networks = [DROPOUT, MLP(depth=5, width=32)]
    alone, tasks = alone_and_sharded(small, tmp_path, [settings_of(network=network) for network in networks])
    let_trials("wait", tasks[1])
    settings = Shards(budget_gib=TIGHT, activations=activations)
    training = ShardedTraining(["cpu"] * 2, tmp_path / "shards", settings, show_progress=False)
    record_result = Session.record_result
    devices: list[int] = []
    during: list[int] = []

    def record(self: Session, device: int, *arguments: object) -> None:
        record_result(self, device, *arguments)  # type: ignore[arg-type]
        if not devices:
            training.add(tasks[1])
        devices.append(device)
        begins_during_trial = (tmp_path / "begun").exists() and not (tmp_path / "word").exists()
        during.extend([device] * begins_during_trial)
        if begins_during_trial and loses_worker and len(during) == 1:
            self.pool[1].process.kill()  # Its model goes back to the beginning, which takes a lock of PyTorch's.
        if len(during) == 12:
            (tmp_path / "word").write_text("go")

    monkeypatch.setattr(Session, "record_result", record)
    training.add(tasks[0])
    training.run()
    assert training.failures == {}
    assert set(during) == {1}
    assert len(during) >= 12
    assert difference(tasks, alone) == 0


@pytest.mark.parametrize("joins", [False, True], ids=["first", "joining"])
def test_a_stop_does_not_wait_for_a_trial_to_end(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_trials: Callable[..., None], joins: bool
) -> None:
    """Ask for a stop while a trial is computed that never ends: of one of the first models, or of one that joins."""
    settings = [settings_of(network=DROPOUT), settings_of(network=MLP(depth=5, width=32))]
    alone, tasks = alone_and_sharded(small, tmp_path, settings)
    let_trials("wait", tasks[1])
    exchange_messages = Session.exchange_messages

    def exchange(self: Session, timeout: float) -> None:
        exchange_messages(self, timeout)
        if (tmp_path / "begun").exists():
            self.context.request_stop()

    training = ShardedTraining(["cpu"] * 2, tmp_path / "shards", SHARD_SETTINGS, show_progress=False)
    training.add(tasks[0])
    if joins:
        add_model = Session.add_model
        monkeypatch.setattr(Session, "add_model", lambda self, model: [add_model(self, model), training.add(tasks[1])])
    else:
        training.add(tasks[1])
    with monkeypatch.context() as patch:
        patch.setattr(Session, "exchange_messages", exchange)
        patch.setattr(worker_process, "_STOP_SECONDS", 0.1)
        with pytest.raises(KeyboardInterrupt):
            training.run()

    monkeypatch.undo()
    for task in tasks:
        training.add(task)
    training.run()
    assert training.failures == {}
    assert difference(tasks, alone) == 0


def test_a_trial_is_stuck_only_if_no_unit_of_it_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_end, worker_end = Pipe()
    clock = [0.0]
    monkeypatch.setattr(worker_process, "_start", lambda log, processes: (None, own_end))
    monkeypatch.setattr(worker_process, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    worker = WorkerProcess(0, worker_settings(["cpu"], SHARD_SETTINGS)[0], tmp_path / "log.txt")
    worker.send(ProfileRequest(None))  # type: ignore[arg-type]
    for _ in range(10):
        clock[0] += 9.0
        assert not worker.is_stalled(10.0)
        worker_end.send(ProfileProgress())
        worker.receive()
    clock[0] += 11.0
    assert worker.is_stalled(10.0)
    worker_end.send(ProfileResult(RuntimeError("no coffee")))
    worker.receive()
    assert not worker.is_stalled(10.0)
    clock[0] += 11.0
    assert not worker.is_stalled(10.0)  # It has nothing to do.
    own_end.close()
    worker_end.close()
