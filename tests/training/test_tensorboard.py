"""TensorBoard as a second place for an epoch's metrics."""

import csv
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from packing import make_pack
from scripting import small_settings
from trainings import write_tasks

import partrain
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.partition.plan import PartitionSettings
from partrain.training import tensorboard
from partrain.training.context import LocalContext
from partrain.training.diagnostics import TrainingError
from partrain.training.loop import Loop
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining
from partrain.training.tensorboard import EpochLog

FAST = TrainSettings(epochs=3, batch_size=64, precision="fp32", early_stop=0, tensorboard=True)


def test_an_epochs_metrics_are_logged_for_tensorboard_too(small: Dataset, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    partrain.run(small_settings(train=FAST), tmp_path, dataset=small, show_progress=False)
    for index in (0, 1):
        with (tmp_path / f"segments/{index}/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        events = accumulator.EventAccumulator(str(tmp_path / f"segments/{index}/tensorboard")).Reload()
        for name in ("loss", "decode_accuracy", "learning_rate"):
            logged = [(event.step, event.value) for event in events.Scalars(name)]
            assert logged == [(int(row["epoch"]), pytest.approx(float(row[name]))) for row in rows]


def logged_losses(folder: Path) -> list[tuple[int, float]]:
    """Return the epochs and losses that TensorBoard reads in a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_an_epoch_without_a_loss_and_files_of_several_processes(tmp_path: Path) -> None:
    for first in (1, 3):
        log = EpochLog(tmp_path, to_tensorboard=True)
        log.write({"epoch": first, "loss": first / 2, "warning": "collapsed", "decode_accuracy": None})
        log.write({"epoch": first + 1, "loss": (first + 1) / 2, "warning": "", "decode_accuracy": 0.5})
    assert logged_losses(tmp_path) == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


class Held:
    """The threads and open files of this process at most, at the steps of its trainings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[threading.Thread] = set()
        self.files: set[str] = set()
        log_step = Loop.log_step

        def looked_at(training: Loop, step: Any) -> None:
            log_step(training, step)
            self.look()

        monkeypatch.setattr(Loop, "log_step", looked_at)
        self.look()
        self.before = set(self.threads)

    def look(self) -> None:
        self.threads |= set(threading.enumerate())
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        self.files |= {os.readlink(link) for link in links if os.path.lexists(link)}

    def nothing(self) -> bool:
        self.look()
        return self.threads == self.before and not [name for name in self.files if "tfevents" in name]


@pytest.mark.parametrize("end", ["finished", "paused", "failed", "stopped"])
def test_no_training_of_a_pack_holds_a_thread_or_an_open_file(
    end: str, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(train=FAST, partition=PartitionSettings(segments=1))
    folders = write_tasks(tmp_path, small, [settings, settings])
    pack = make_pack(tmp_path / "pack", folders, pauses=[2, 2] if end == "paused" else None)
    held = Held(monkeypatch)
    if end == "failed":
        monkeypatch.setattr(SegmentTraining, "check_early_stop", fail)
    if end == "stopped":
        monkeypatch.setattr(pack, "context", StopsLater())
    pack.run()
    assert held.nothing(), (held.threads - held.before, held.files)
    epochs = {"finished": 3, "paused": 2, "failed": 1, "stopped": 2}[end]
    assert [[epoch for epoch, _ in logged_losses(folder)] for folder in folders] == [[*range(1, epochs + 1)]] * 2
    assert len(pack.failures) == (2 if end == "failed" else 0)


def fail(training: Loop) -> None:
    raise TrainingError("the loss is nan")


class StopsLater(LocalContext):
    """A context that stops its pack in the third epoch."""

    polls = 0

    def poll(self) -> None:
        self.polls += 1
        if self.polls == 25:
            self.request_stop()


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()  # in place of the folder
    log = EpochLog(tmp_path, to_tensorboard=True)
    log.write({"epoch": 1, "loss": 4.0})
    (tmp_path / "tensorboard").unlink()
    log.write({"epoch": 2, "loss": 2.0})
    log.write({"epoch": 3, "loss": 1.0})
    assert logged_losses(tmp_path) == [(2, 2.0), (3, 1.0)]


def test_without_the_package_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        TrainSettings(tensorboard=True)
    message = "train.tensorboard=true needs the tensorboard package: pip install 'partrain[tensorboard]'"
    assert str(caught.value) == message
    assert not TrainSettings().tensorboard
