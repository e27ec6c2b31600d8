"""Tests of the stack sizes that are measured, and of how many trainings fit."""

from collections.abc import Sequence
from pathlib import Path

import torch
from packing import settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.packs.autotune import StackTimings, autotune, max_stack_size, measure_memory
from partrain.packs.capacity import LiveBytesMode, StackMemory
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask


def tasks_of(folder: Path, small: Dataset, count: int) -> list[SegmentTask]:
    """Return `count` tasks of one shape, written below `folder`."""
    settings = [settings_of(seed=number) for number in range(count)]
    return [SegmentTask.read(path) for path in write_tasks(folder, small, settings)]


def test_live_bytes_are_those_of_tensors_that_live_at_once() -> None:
    before = torch.zeros(1000)
    with LiveBytesMode() as mode:
        first = torch.zeros(256)
        view = first.view(16, 16)
        second = before + 1
        del second
        third = torch.ones(100, dtype=torch.float64)
    assert mode.peak_bytes == 4 * 256 + 4 * 1000
    assert mode.live_bytes == 4 * 256 + 8 * 100
    assert view.shape == (16, 16)
    assert third.sum() == 100


def test_how_many_fit() -> None:
    memory = StackMemory.fit((2, 700), (3, 900))
    assert memory == StackMemory(fixed_bytes=300, member_bytes=200)
    assert [memory.max_members(budget) for budget in (499, 500, 1099, 1100)] == [0, 1, 3, 4]


def test_a_dry_run_counts_weights_gradients_state_and_activations(small: Dataset, tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, small, 3)
    memory = measure_memory(tasks, tmp_path)
    assert memory == measure_memory(tasks, tmp_path)
    numbers = 64 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 5 + 5
    assert 4 * 8 * numbers < memory.member_bytes < 4 * 8 * numbers + 64 * 8 * (64 * 4 + 6 * 32 * 3)
    assert max_stack_size(tasks, tmp_path, memory.fixed_bytes + 5 * memory.member_bytes) == 5


def test_the_fastest_size_is_taken_if_it_is_worth_it(small: Dataset, tmp_path: Path) -> None:
    spent = {1: 10.0, 2: 12.0, 4: 18.0, 8: 33.0, 16: 80.0}  # milliseconds of a step of all
    tried: list[int] = []

    def trial(trainings: Sequence[SegmentTraining]) -> float:
        tried.append(len(trainings))
        return spent[len(trainings)]

    tasks = tasks_of(tmp_path, small, 3) * 6
    timings = autotune(tasks, tmp_path, 10**9, trial)
    assert tried == [1, 2, 4, 8, 16]
    assert [timings.choose_size(count) for count in (18, 8, 5)] == [8, 8, 5]
    assert timings.describe(18) == "in stacks of 8: in a trial, this was 2.42 times as fast as one after another"
    memory = measure_memory(tasks, tmp_path)
    narrow = autotune(tasks, tmp_path, memory.fixed_bytes + 5 * memory.member_bytes, trial)
    assert max(narrow.step_seconds) == 4  # what fits
    # stacks of 8 were not tried, so as many as fit
    expected = "in stacks of 5: in a trial, stacks of 4 were 2.22 times as fast as one after another"
    assert narrow.describe(18) == expected
    assert timings.restrict_to(16) == timings
    assert timings.restrict_to(99) == timings  # larger stacks than 16 are slower
    fewer = timings.restrict_to(5)
    assert fewer is not None
    assert list(fewer.step_seconds) == [1, 2, 4]
    assert fewer.restrict_to(7) == fewer
    assert fewer.choose_size(7) == 7
    assert fewer.restrict_to(8) is None  # stacks of 8 have to be tried
    slower = StackTimings(step_seconds={1: 10.0, 2: 9.5, 4: 11.0}, max_size=9)
    assert slower.choose_size(5) == 1
    assert slower.describe(5) == "one after another: in a trial, stacks of 2 were only 1.05 times as fast"
    alone = StackTimings(step_seconds={1: 10.0}, max_size=1)
    assert alone.choose_size(5) == 1
    assert alone.describe(5) == "one after another: memory has room for one at a time"
