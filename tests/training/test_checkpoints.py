"""Tests of when a training writes its checkpoint and metrics.csv, and of a stop that is requested at any step."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.data.batches import Batch
from partrain.networks import MLP
from partrain.shards.host_model import HostModel
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, METRICS
from partrain.strategies.data_parallel import DataParallel
from partrain.strategies.decoupled import Decoupled
from partrain.strategies.pipeline import Pipeline
from partrain.strategies.rank import RankTraining
from partrain.training.context import LocalContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining

SETTINGS = TrainSettings(epochs=4, batch_size=128, precision="fp32", early_stop=0)  # 5 steps per epoch


def make_training(small: Dataset, folder: Path, **train_settings: Any) -> SegmentTraining:
    """Return a training below `folder` with changed settings."""
    settings = settings_of(network=MLP(depth=2, width=8), train=replace(SETTINGS, **train_settings))
    (task,) = write_tasks(folder, small, [settings])
    return SegmentTraining(task, LocalContext(), PeakMemory())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that moves all clocks forward, by default by a second. They stand still otherwise."""
    now = [1000.0]
    for name in ("monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda: now[0])

    def move(seconds: float = 1.0) -> None:
        now[0] += seconds

    return move


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Return the list of weights and metrics.csv as they are written, each with whether it is synced."""
    files: list[tuple[str, bool]] = []
    write_atomic = checkpoint.write_atomic

    def noted(path: Path, *arguments: Any, sync: bool = True) -> None:
        if path.suffix == ".safetensors" or path.name == METRICS:
            files.append((path.name, sync))
        write_atomic(path, *arguments, sync=sync)

    monkeypatch.setattr(checkpoint, "write_atomic", noted)
    return files


def after_each_step(training: SegmentTraining, action: Callable[[Step], None]) -> None:
    """Let `training` call `action` after each of its optimiser steps."""
    train_step = training.train_step

    def step_and_act(step: Step) -> None:
        train_step(step)
        action(step)

    training.train_step = step_and_act  # type: ignore[method-assign]


def test_checkpoints_follow_the_clock_and_not_the_epochs(
    small: Dataset, tmp_path: Path, clock: Callable[..., None], written: list[tuple[str, bool]]
) -> None:
    """Let a step take a second. Every step is logged here, and an epoch takes five."""
    training = make_training(small, tmp_path, checkpoint_seconds=7.5)
    training.log_every = 1
    steps = []
    after_each_step(training, lambda step: clock())
    write_checkpoint = training.write_checkpoint
    training.write_checkpoint = lambda: (steps.append(training.progress.step), write_checkpoint())[1]  # type: ignore[method-assign]
    assert training.run()
    assert steps == [8, 16, 20]
    synced = [(METRICS, True), (CHECKPOINT, True)]
    assert written == [
        (METRICS, False),
        *synced,
        (METRICS, False),
        (METRICS, False),
        *synced,
        (METRICS, False),
        *synced,
    ]
    assert (training.folder / METRICS).read_text().count("\n") == 5


def test_short_epochs_write_metrics_once_a_second(
    small: Dataset, tmp_path: Path, clock: Callable[..., None], written: list[tuple[str, bool]]
) -> None:
    """Let a second pass in the third epoch alone."""
    training = make_training(small, tmp_path)
    rows = []
    after_each_step(training, lambda step: clock(1.0 if step.batch.step == 12 else 0.01))
    write_metrics = type(training.progress).write_metrics

    def noted(folder: Path, *, sync: bool = True) -> None:
        rows.append(len(training.progress.epochs))
        write_metrics(training.progress, folder, sync=sync)

    training.progress.write_metrics = noted  # type: ignore[method-assign]
    assert training.run()
    assert rows == [1, 3, 4]
    assert written == [(METRICS, False), (METRICS, False), (METRICS, True), (CHECKPOINT, True)]


def test_a_stop_takes_effect_at_any_step_and_what_was_used_is_counted(
    small: Dataset, tmp_path: Path, clock: Callable[..., None]
) -> None:
    training = make_training(small, tmp_path)

    def act(step: Step) -> None:
        clock()
        if step.batch.step == 3:  # It is not logged; step 0 is the last one before it that is.
            training.context.request_stop()

    after_each_step(training, act)
    assert not training.run()
    progress = checkpoint.load_metadata(training.folder / CHECKPOINT)
    assert (progress["step"], progress["seconds"], progress["cpu_seconds"]) == (4, 4.0, 4.0)
    assert progress["thread_seconds"] == 4.0 * torch.get_num_threads()


@pytest.mark.parametrize(("bytes_per_second", "is_saved"), [(1e8, True), (1.0, False)])
def test_an_orphan_leaves_after_its_step_with_a_checkpoint_if_that_is_quick(
    bytes_per_second: float, is_saved: bool, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partrain.training.loop._WRITTEN_BYTES_PER_SECOND", bytes_per_second)
    training = make_training(small, tmp_path)

    def lose_launcher(step: Step) -> None:
        if step.batch.step == 6:
            training.context.stop_seconds = 1.0
            training.context.request_stop()

    after_each_step(training, lose_launcher)
    assert not training.run()
    assert training.progress.step == 7
    assert (training.folder / CHECKPOINT).exists() == is_saved


def test_a_pause_writes_a_checkpoint(small: Dataset, tmp_path: Path, written: list[tuple[str, bool]]) -> None:
    training = make_training(small, tmp_path)
    training.pause_after = 2
    assert training.run()
    assert checkpoint.load_metadata(training.folder / CHECKPOINT)["step"] == 10
    assert (training.folder / METRICS).read_text().count("\n") == 3
    assert written[-3:] == [(METRICS, True), (CHECKPOINT, True), ("2.safetensors", True)]


def test_the_weights_of_a_pause_are_written_after_its_checkpoint(
    small: Dataset, tmp_path: Path, written: list[tuple[str, bool]]
) -> None:
    """They say that the training has come so far, also where they are wanted after every epoch."""
    training = make_training(small, tmp_path, accuracy_curve=True)
    training.pause_after = 2
    assert training.run()
    names = [name for name, _ in written if name.endswith(".safetensors")]
    assert names == ["1.safetensors", CHECKPOINT, "2.safetensors"]
    training.pause_after = 4  # Its end.
    assert training.run()
    assert sorted(path.name for path in (training.folder / "epochs").iterdir()) == [
        f"{epoch}.safetensors" for epoch in (1, 2, 3, 4)
    ]


def test_a_model_in_shards_is_saved_by_the_clock_and_at_its_end(
    small: Dataset, tmp_path: Path, clock: Callable[..., None]
) -> None:
    folder = make_training(small, tmp_path, checkpoint_seconds=12.5).folder
    model = HostModel(folder, "model", LocalContext())
    due = []
    while model._current is not None:
        step = model._current.step
        model.training.meter.add_loss(step.batch.step % 5, torch.tensor(1.0))
        clock()
        if model._end_step(step):
            due.append(model.training.progress.step)
            model.save()
    assert due == [15, 20]  # The first logged step after 12.5 seconds ends the third epoch.
    assert checkpoint.load_metadata(folder / CHECKPOINT)["finished"]


@pytest.mark.parametrize("training", [DataParallel, Pipeline, Decoupled])
def test_processes_of_a_group_save_and_stop_together(
    training: type[RankTraining], small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask without a group. None of its processes goes by its own clock, or by a request of its own."""
    others: list[int] = []

    def add_others(wishes: torch.Tensor, operation: object) -> None:
        wishes.copy_(torch.maximum(wishes, torch.tensor(others, dtype=wishes.dtype)))

    monkeypatch.setattr("torch.distributed.all_reduce", add_others)
    rank = object.__new__(training)
    rank.__dict__.update(make_training(small, tmp_path, checkpoint_seconds=1000.0).__dict__)
    batch = Batch(0, torch.arange(1))

    def ask(wishes: list[int], *, is_logged: bool, ends_epoch: bool) -> tuple[bool, bool, bool]:
        others[:] = wishes
        step = Step(batch, is_logged=is_logged, ends_epoch=ends_epoch)
        return rank.should_stop_after(step), rank.is_checkpoint_due(step), rank.has_time_to_save()

    assert ask([1, 1, 0], is_logged=False, ends_epoch=False) == (False, False, False)
    for is_logged, ends_epoch in ((True, False), (True, True)):
        is_together = ends_epoch or training is not Decoupled
        answers = [
            ask(wishes, is_logged=is_logged, ends_epoch=ends_epoch) for wishes in ([0, 0, 0], [0, 1, 0], [1, 0, 1])
        ]
        nothing = (False, False, False)
        agreed = [(False, False, True), (False, True, True), (True, False, False)]
        assert answers == (agreed if is_together else [nothing] * 3)
    rank.context.request_stop()  # type: ignore[attr-defined]
    assert ask([0, 0, 0], is_logged=True, ends_epoch=True) == (True, False, True)
    ends_at_once = training is Decoupled
    assert ask([0, 0, 0], is_logged=False, ends_epoch=False) == (ends_at_once, False, False)
