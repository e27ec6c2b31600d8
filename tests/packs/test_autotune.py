"""Tests of the stack sizes that are measured, how many trainings fit, and which process trains which of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import TRAIN, settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.device import num_cores
from partrain.launch.settings import GroupingSettings, LaunchSettings
from partrain.networks import CustomSettings, MLPSettings
from partrain.packs.autotune import StackTimings, autotune, max_stack_size, measure_memory
from partrain.packs.capacity import LiveBytesMode, StackMemory
from partrain.packs.planner import PackPlanner, PendingTraining, TimingCache
from partrain.packs.settings import PackSettings
from partrain.packs.task import PackMember, PackTask
from partrain.settings import AloneSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_FILE
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask


def tasks_of(folder: Path, small: Dataset, count: int) -> list[SegmentTask]:
    """Return `count` tasks of one shape, written below `folder`."""
    settings = [settings_of(seed=number) for number in range(count)]
    return [SegmentTask.read(path) for path in write_tasks(folder, small, settings)]


def pending(folders: Sequence[Path]) -> list[PendingTraining]:
    """Return the trainings in `folders`, each with a pause after its second epoch."""
    return [
        PendingTraining(folder=path, task=SegmentTask.read(path), name=f"training {number}", cost=1.0, pause_after=2)
        for number, path in enumerate(folders)
    ]


def planner_of(folder: Path, grouping: GroupingSettings, threads: str | int = "auto", **changed: Any) -> PackPlanner:
    """Return a planner of packs in `folder`, with `changed` fields of its own."""
    return PackPlanner(
        grouping=grouping, launch=LaunchSettings(device="cpu", threads=threads), folder=folder, **changed
    )


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
    memory = measure_memory(tasks)
    assert memory == measure_memory(tasks)
    numbers = 64 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 5 + 5
    assert 4 * 8 * numbers < memory.member_bytes < 4 * 8 * numbers + 64 * 8 * (64 * 4 + 6 * 32 * 3)
    assert max_stack_size(tasks, memory.fixed_bytes + 5 * memory.member_bytes) == 5


def test_the_fastest_size_is_taken_if_it_is_worth_it(small: Dataset, tmp_path: Path) -> None:
    spent = {1: 10.0, 2: 12.0, 4: 18.0, 8: 33.0, 16: 80.0}  # milliseconds of a step of all
    tried: list[int] = []

    def trial(trainings: Sequence[SegmentTraining]) -> float:
        tried.append(len(trainings))
        return spent[len(trainings)]

    tasks = tasks_of(tmp_path, small, 3) * 6
    timings = autotune(tasks, 10**9, trial)
    assert tried == [1, 2, 4, 8, 16]
    assert [timings.choose_size(count) for count in (18, 8, 5)] == [8, 8, 5]
    assert timings.describe(18) == "in stacks of 8: in a trial, this was 2.42 times as fast as one after another"
    memory = measure_memory(tasks)
    narrow = autotune(tasks, memory.fixed_bytes + 5 * memory.member_bytes, trial)
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


def test_tasks_are_grouped_by_shape(small: Dataset, tmp_path: Path) -> None:
    settings = [
        settings_of(seed=0),
        settings_of(seed=1, train=replace(TRAIN, optimizer="sgd", epochs=7)),
        settings_of(train=replace(TRAIN, batch_size=32)),
        settings_of(network=MLPSettings(depth=4, width=16)),
        settings_of(network=CustomSettings(builder="own_networks:plain")),
        settings_of(seed=3, train=replace(TRAIN, precision="fp32")),
        settings_of(train=replace(TRAIN, compile=True)),
    ]
    trainings = pending(write_tasks(tmp_path, small, settings))
    groups = planner_of(tmp_path, PackSettings(trial=False)).group_by_shape(trainings)
    assert [[int(training.name[-1]) for training in group.trainings] for group in groups] == [
        [0, 1],
        [2],
        [3],
        [4],
        [5],
        [6],
    ]
    assert [group.stack_size for group in groups] == [2, 1, 1, 1, 1, 1]
    assert all(group.stack_size == 1 for group in planner_of(tmp_path, AloneSettings()).group_by_shape(trainings))


def test_what_is_known_is_not_tried_again(small: Dataset, tmp_path: Path) -> None:
    tried: list[int] = []

    def trial(trainings: Sequence[SegmentTraining]) -> float:
        tried.append(len(trainings))
        return 1.0

    trainings = pending(write_tasks(tmp_path, small, [settings_of(seed=number) for number in range(6)]))
    timings: TimingCache = {}
    planner = planner_of(tmp_path, PackSettings(), timings=timings, measure=trial)
    assert [group.stack_size for group in planner.group_by_shape(trainings)] == [6]
    assert tried == [1, 2, 4]
    again = planner_of(tmp_path, PackSettings(), timings=timings, measure=trial)
    assert [group.stack_size for group in again.group_by_shape(trainings[:3])] == [3]
    assert tried == [1, 2, 4]
    planner_of(tmp_path, PackSettings(), measure=trial).group_by_shape(trainings[:3])
    assert tried == [1, 2, 4, 1, 2]


def test_what_is_packed_is_written_down_and_kept(small: Dataset, tmp_path: Path) -> None:
    settings = [settings_of(seed=number) for number in range(4)] + [settings_of(network=MLPSettings(depth=2))]
    folders = write_tasks(tmp_path / "tasks", small, settings)
    trainings = pending(folders)
    jobs = planner_of(tmp_path / "packs", PackSettings(trial=False, memory_gib=1.0)).plan(trainings)
    assert [job.name for job in jobs] == ["pack of 4", "training 4"]
    members = [
        PackMember(
            folder=f"../../tasks/{number}/segments/0",
            pause_after=2,
            stack_size=4,
            required_room=4 if number == 0 else 1,
        )
        for number in range(4)
    ]
    assert PackTask.read(jobs[0].folder) == PackTask(members=members, capacity=4)
    assert jobs[0].trainings() == {folder: f"training {n}" for n, folder in enumerate(folders[:4])}
    # two are done: the pack is the same, and nothing is measured again
    again = planner_of(tmp_path / "packs", PackSettings(), measure=_never).plan([trainings[1], trainings[4]])
    assert [job.folder for job in again] == [jobs[0].folder, folders[4]]
    alone = planner_of(tmp_path / "packs", AloneSettings()).plan([trainings[1], trainings[4]])
    assert [job.folder for job in alone] == [folders[1], folders[4]]


def _never(trainings: Sequence[SegmentTraining]) -> float:
    raise AssertionError("a step was measured")


def test_how_trainings_of_a_shape_will_train_is_printed(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings = pending(write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(3)]))
    planner_of(tmp_path / "packs", PackSettings(), measure=lambda trainings: 1.0, show_timings=True).plan(trainings)
    expected = (
        "training 0 and 2 more of the same shape train in stacks of 3: in a trial, stacks of 2 were 2.00 times as "
    )
    assert capsys.readouterr().out.replace("\n", " ").startswith(expected)


def test_a_pack_that_was_begun_before_some_of_its_keys_went_is_read(tmp_path: Path) -> None:
    task = PackTask(members=[PackMember(folder="../a", stack_size=1)], capacity=1)
    task.write(tmp_path)
    path = tmp_path / PACK_FILE
    checkpoint.write_json(path, checkpoint.read_json(path) | {"alone_seconds": 2.0, "stacked_seconds": 1.0})
    assert PackTask.read(tmp_path) == task


def test_a_pack_is_a_list_for_each_field_on_disk(tmp_path: Path) -> None:
    on_disk = {
        "members": ["../a", "../b"],
        "pauses": [None, 2],
        "stack_sizes": [2, 1],
        "room": [2, 1],
        "capacity": 2,
    }
    checkpoint.write_json(tmp_path / PACK_FILE, on_disk)
    task = PackTask.read(tmp_path)
    assert task.members == [
        PackMember(folder="../a", pause_after=None, stack_size=2, required_room=2),
        PackMember(folder="../b", pause_after=2, stack_size=1, required_room=1),
    ]
    task.write(tmp_path)
    assert checkpoint.read_json(tmp_path / PACK_FILE) == on_disk


def test_those_that_are_not_stacked_wait_in_as_many_queues_as_run_at_once(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(5)])
    jobs = planner_of(tmp_path / "packs", AloneSettings(), threads=1, one_process_per_core=True).plan(pending(folders))
    assert len(jobs) == min(5, num_cores())
    assert sorted(folder for job in jobs for folder in job.trainings()) == sorted(folders)
    assert all(PackTask.read(job.folder).capacity == 1 for job in jobs)
    on_all_cores = planner_of(tmp_path / "one", AloneSettings(), threads=num_cores(), one_process_per_core=True)
    assert len(on_all_cores.plan(pending(folders))) == 1
