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
from partrain.networks import MLPSettings
from partrain.shards.host_model import HostModel
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, METRICS
from partrain.strategies.data_parallel import DataParallel
from partrain.training.context import LocalContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining

SETTINGS = TrainSettings(epochs=4, batch_size=128, precision="fp32", early_stop=0)  # 5 steps per epoch


def make_training(small: Dataset, folder: Path, **train_settings: Any) -> SegmentTraining:
    """Return a training below `folder` with changed settings."""
    settings = settings_of(network=MLPSettings(depth=2, width=8), train=replace(SETTINGS, **train_settings))
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
    """Return the list of checkpoint.safetensors and metrics.csv as they are written, each with whether it is synced."""
    files: list[tuple[str, bool]] = []
    write_atomic = checkpoint.write_atomic

    def noted(path: Path, *arguments: Any, sync: bool = True) -> None:
        if path.name in (CHECKPOINT, METRICS):
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
    assert not training.run()
    assert checkpoint.load_metadata(training.folder / CHECKPOINT)["step"] == 10
    assert (training.folder / METRICS).read_text().count("\n") == 3
    assert written[-2:] == [(METRICS, True), (CHECKPOINT, True)]


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


def test_processes_of_a_group_save_at_the_end_of_every_epoch() -> None:
    """Ask without a group. None of its processes may go by its own clock, since all of them save together."""
    rank = object.__new__(DataParallel)
    batch = Batch(0, torch.arange(1))
    due = [rank.is_checkpoint_due(Step(batch, is_logged=True, ends_epoch=ends_epoch)) for ends_epoch in (True, False)]
    assert due == [True, False]
