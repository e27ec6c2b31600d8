"""Tests of what can interrupt a sharded training: stops, lost workers, failures, and models that cannot be trained."""

import csv
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sharding import ROOM, TIGHT, TRAIN, VARIED, settings_of
from trainings import difference, train_alone, write_tasks

from partrain.data import Dataset
from partrain.device import device_names
from partrain.errors import JobFailed, UserError
from partrain.networks import MLP
from partrain.shards import worker_pool
from partrain.shards.driver import ShardedTraining
from partrain.shards.session import Session, TrainingHistory
from partrain.shards.settings import Shards
from partrain.shards.simulator import read_loads
from partrain.shards.train import train_sharded
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import LocalContext

HERE = ", ".join(device_names())
SHARD_SETTINGS = Shards(budget_gib=TIGHT)


def disturb(
    monkeypatch: pytest.MonkeyPatch,
    num_units: int,
    disturbance: Callable[[Session], None],
    worker: int | None = None,
) -> None:
    """Call `disturbance` with the session once `num_units` units have been recorded, of all workers or of `worker`."""
    record_result, count = Session.record_result, [0]

    def disturbed(self: Session, device: int, *arguments: object) -> None:
        record_result(self, device, *arguments)  # type: ignore[arg-type]
        if worker not in (None, device):
            return
        count[0] += 1
        if count[0] == num_units:
            disturbance(self)

    monkeypatch.setattr(Session, "record_result", disturbed)


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_stopped_and_called_again_it_ends_with_the_same_bits(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activations: str
) -> None:
    settings = [settings_of(seed=n, network=MLP(depth=4, width=32, dropout=0.3)) for n in range(3)]
    alone = train_alone(tmp_path / "alone", small, settings)
    folders = write_tasks(tmp_path / "sharded", small, settings)
    shard_settings = replace(SHARD_SETTINGS, activations=activations)
    with monkeypatch.context() as patch:
        disturb(patch, 40, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train_sharded(folders, ["cpu"] * 2, tmp_path / "shards", shard_settings, show_progress=False)
    steps = [checkpoint.load_metadata(folder / CHECKPOINT)["step"] for folder in folders]
    assert all(0 < step < 20 for step in steps), steps
    assert train_sharded(folders, ["cpu"], tmp_path / "shards", shard_settings, show_progress=False) == {}
    assert difference(folders, alone) == 0
    # Nothing is left to do, and nothing changes.
    assert train_sharded(folders, ["cpu"], tmp_path / "shards", shard_settings, show_progress=False) == {}
    assert difference(folders, alone) == 0


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_a_worker_that_dies_is_replaced_and_its_models_go_on_from_their_checkpoints(
    small: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    activations: str,
) -> None:
    settings = [settings_of(seed=n) for n in range(3)]
    alone = train_alone(tmp_path / "alone", small, settings)
    folders = write_tasks(tmp_path / "sharded", small, settings)
    disturb(monkeypatch, 70, lambda session: session.pool[0].process.kill())
    shard_settings = replace(SHARD_SETTINGS, activations=activations)
    assert train_sharded(folders, ["cpu"] * 2, tmp_path / "shards", shard_settings, show_progress=False) == {}
    assert difference(folders, alone) == 0
    assert "Worker 0 died; a new process replaces it, and " in capsys.readouterr().out


def test_a_worker_that_is_stuck_is_noticed_and_what_it_had_to_do_is_done_elsewhere(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [settings_of(seed=n) for n in range(3)]
    alone = train_alone(tmp_path / "alone", small, settings)
    folders = write_tasks(tmp_path / "sharded", small, settings)
    # Before its first answer it would count as starting for a minute more.
    disturb(monkeypatch, 1, lambda session: os.kill(session.pool[1].process.pid, signal.SIGSTOP), worker=1)
    shard_settings = replace(SHARD_SETTINGS, stall_seconds=5.0)
    assert train_sharded(folders, ["cpu"] * 2, tmp_path / "shards", shard_settings, show_progress=False) == {}
    assert difference(folders, alone) == 0
    assert "Worker 1 spent more than 5 s on one unit; a new process replaces it, and " in capsys.readouterr().out


def test_a_model_that_fails_is_dropped_and_named_and_the_others_go_on(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [settings_of(), settings_of(train=replace(TRAIN, lr=1e200, optimizer="sgd")), settings_of(seed=2)]
    alone = train_alone(tmp_path / "alone", small, [settings[0], settings[2]])
    folders = write_tasks(tmp_path / "sharded", small, settings)
    failures = train_sharded(folders, ["cpu"] * 2, tmp_path / "shards", SHARD_SETTINGS)
    (failed,) = failures
    assert failed == folders[1]
    assert "the loss is nan at epoch 1" in failures[failed] or "the loss is inf at epoch 1" in failures[failed]
    assert checkpoint.read_json(failed / "error.json")["message"] == failures[failed]
    assert difference([folders[0], folders[2]], alone) == 0
    assert "FAILED: segment 0: the loss is " in capsys.readouterr().out


def test_a_layer_that_does_not_fit_is_named_with_the_smallest_budget_that_works(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of()])
    with pytest.raises(
        UserError, match=r"layer linear0 needs [0-9,]+ bytes of a device with double buffering"
    ) as caught:
        train_sharded(folders, ["cpu"], tmp_path / "shards", Shards(budget_gib=1e-4), show_progress=False)
    smallest_budget = float(str(caught.value).rpartition(" ")[2])
    settings = Shards(budget_gib=smallest_budget)
    assert train_sharded(folders, ["cpu"], tmp_path / "shards", settings, show_progress=False) == {}


def test_host_memory_that_is_too_small_is_said_before_anything_begins(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "free_bytes", lambda device, setting: 2**30)
    monkeypatch.setattr("partrain.shards.host.free_bytes", lambda device: 1000)
    folders = write_tasks(tmp_path / "tasks", small, [settings_of()])
    with pytest.raises(UserError, match=r"^These models need 0.00 GiB of host memory, but 0.00 GiB are free; "):
        train_sharded(folders, ["cpu"], tmp_path / "shards", show_progress=False)
    assert not list((tmp_path / "shards").glob("workers/*"))


def test_spilled_to_disk(small: Dataset, tmp_path: Path) -> None:
    alone = train_alone(tmp_path / "alone", small, [settings_of(**VARIED[2])])
    folders = write_tasks(tmp_path / "sharded", small, [settings_of(**VARIED[2])])
    shard_settings = Shards(budget_gib=ROOM / 2 / 2**30, spill_to="disk", separate=True)
    assert train_sharded(folders, ["cpu"], tmp_path / "shards", shard_settings, show_progress=False) == {}
    assert difference(folders, alone) == 0
    assert not list((tmp_path / "shards").glob("partrain-*"))


def test_an_orphan_writes_as_many_checkpoints_as_it_has_time_for() -> None:
    saved: list[str] = []

    def model(name: str, seconds: float) -> SimpleNamespace:
        training = SimpleNamespace(estimate_saving_seconds=lambda: seconds)
        return SimpleNamespace(
            training=training, save_checkpoint=lambda: saved.append(name), as_load=lambda unit_seconds: name
        )

    session: Session = object.__new__(Session)
    session.models = {0: model("small", 0.1), 1: model("large", 9.0), 2: model("middle", 0.5)}  # type: ignore[dict-item]
    session.context, session.history = LocalContext(), TrainingHistory()
    session.scheduler = SimpleNamespace(unit_seconds=lambda model_id: [])  # type: ignore[assignment]
    session.context.stop_seconds = 1.0
    session.save_unfinished()
    assert saved == ["small", "middle"]
    session.context.stop_seconds = None
    session.save_unfinished()
    assert saved[2:] == ["small", "large", "middle"]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "devices is empty; give at least one, such as cpu"),
        (["cpu", "tpu:0"], f"devices=tpu:0: there is no such device here; available: {HERE} or auto"),
        (["cuda:99"], f"devices=cuda:99: there is no such device here; available: {HERE} or auto"),
    ],
)
def test_devices_that_are_not_there(small: Dataset, tmp_path: Path, devices: list[str], message: str) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of()])
    with pytest.raises(UserError) as caught:
        train_sharded(folders, devices, tmp_path / "shards")
    assert str(caught.value) == message


def test_tasks_that_cannot_be_trained(small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^There is no model to train; give at least one task$"):
        train_sharded([], ["cpu"], tmp_path / "shards")
    with pytest.raises(UserError, match=r"tasks/none is no segment's folder: it has no task.json$"):
        train_sharded([tmp_path / "tasks/none"], ["cpu"], tmp_path / "shards")
    (one,) = write_tasks(tmp_path / "tasks", small, [settings_of()])
    with pytest.raises(UserError) as caught:
        train_sharded([one, one], ["cpu"], tmp_path / "shards")
    assert str(caught.value) == f"{one} is being trained already; give every task once"
    with pytest.raises(UserError) as caught:
        train_sharded([one], ["cpu"], tmp_path / "shards", pause_after={tmp_path / "other": 1})
    assert str(caught.value) == f"pause_after: {tmp_path}/other is not among the tasks; add it to them or leave it out"
    with pytest.raises(UserError) as caught:
        train_sharded([one], ["cpu"], tmp_path / "shards", pause_after={one: 0})
    assert str(caught.value) == f"{one}: pause_after must be at least 1, got 0"
    (compiled,) = write_tasks(tmp_path / "compiled", small, [settings_of(train=replace(TRAIN, compile=True))])
    with pytest.raises(UserError) as caught:
        train_sharded([compiled], ["cpu"], tmp_path / "shards")
    assert str(caught.value) == f"{compiled}: train.compile=true does not work in shards; leave it out"


def test_models_join_while_others_train_and_leave_when_they_end(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add one model beforehand, two from outside while it trains, and one when the first has ended."""
    settings = [settings_of(**varied) for varied in VARIED]
    alone = train_alone(tmp_path / "alone", small, settings)
    folders = write_tasks(tmp_path / "sharded", small, settings)
    training = ShardedTraining(["cpu"] * 2, tmp_path / "shards", SHARD_SETTINGS, show_progress=False)
    ended: list[Path] = []
    left: list[int] = []
    sessions: list[Session] = []

    def add_two(session: Session) -> None:
        sessions.append(session)
        for folder in folders[1:3]:
            training.add(folder)

    disturb(monkeypatch, 5, add_two)

    def end(task: Path) -> None:
        if not ended:
            training.add(folders[3])
        ended.append(task)
        left.append(sum(path.name != "lock" for folder in sessions[0].host.folders for path in folder.iterdir()))

    training.add(folders[0])
    training.run(end)
    assert sorted(ended) == sorted(folders)
    assert training.failures == {}
    assert difference(folders, alone) == 0
    assert left[-1] == 0  # nothing of those that have left is in host memory
    units = list(csv.DictReader((tmp_path / "shards/timeline.csv").read_text().splitlines()))
    assert {row["model"] for row in units} == {str(folder.relative_to(tmp_path)) for folder in folders}
    assert [load.steps for load in read_loads(tmp_path / "shards/costs.json")] == [20, 20, 20, 10]


def test_one_that_joins_and_cannot_be_trained_is_named_and_the_others_go_on(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train_alone(tmp_path / "alone", small, [settings_of()])
    folders = write_tasks(tmp_path / "sharded", small, [settings_of(), settings_of(network=MLP(depth=4, width=400))])
    training = ShardedTraining(["cpu"], tmp_path / "shards", SHARD_SETTINGS)
    disturb(monkeypatch, 5, lambda _: training.add(folders[1]))
    training.add(folders[0])
    training.run()
    assert list(training.failures) == [folders[1]]
    assert "layer linear1 needs " in training.failures[folders[1]]
    assert checkpoint.read_json(folders[1] / "error.json")["message"] == training.failures[folders[1]]
    assert "sharded/1/segments/0 FAILED: " in capsys.readouterr().out
    assert difference(folders[:1], alone) == 0


def test_a_pause_and_on_again(small: Dataset, tmp_path: Path) -> None:
    """Train until an epoch as a search does, which leaves that epoch's weights, and continue later."""
    alone = train_alone(tmp_path / "alone", small, [settings_of()])
    (folder,) = write_tasks(tmp_path / "sharded", small, [settings_of()])
    training = ShardedTraining(["cpu"], tmp_path / "shards", SHARD_SETTINGS, show_progress=False)
    training.add(folder, pause_after=1)
    training.run()
    assert checkpoint.load_metadata(folder / CHECKPOINT)["step"] == 10
    assert (folder / "epochs/1.safetensors").exists()
    training.add(folder)
    training.run()
    assert difference([folder], alone) == 0


def test_a_worker_that_is_lost_again_and_again(small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of()])
    disturb(monkeypatch, 5, lambda session: session.pool[0].process.kill())
    training = ShardedTraining(["cpu"], tmp_path / "shards", SHARD_SETTINGS, max_restarts=0, show_progress=False)
    training.add(folders[0])
    with pytest.raises(JobFailed) as caught:
        training.run()
    log = tmp_path / "shards/workers/0.txt"
    assert str(caught.value) == f"Worker 0 died after 0 restarts; see {log}"
