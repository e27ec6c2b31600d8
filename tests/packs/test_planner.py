"""Tests of which trainings share a pack, on which device, and what is measured for that."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executors import ScratchExecutor, ScriptedExecutor
from packing import TRAIN, settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.launch.executor import Slot
from partrain.launch.launcher import Launcher
from partrain.launch.settings import Local
from partrain.networks import MLP, CustomNetwork
from partrain.packs.autotune import StackTimings
from partrain.packs.planner import PackPlanner, TimingCache
from partrain.packs.settings import Pack
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_LIST
from partrain.training.job import Job, Member
from partrain.training.task import PendingTraining, SegmentTask

FITS = StackTimings(step_seconds={}, max_size=99)
"""What is measured without a trial: how many fit."""


def pending(folders: Sequence[Path]) -> list[PendingTraining]:
    """Return the trainings in `folders`, each with a pause after its second epoch."""
    return [
        PendingTraining(folder=path, task=SegmentTask.read(path), name=f"training {number}", cost=1.0, pause_after=2)
        for number, path in enumerate(folders)
    ]


def planner_of(
    folder: Path, settings: Pack | None, slots: Sequence[Slot] = (Slot(kind="cpu"),), **changed: Any
) -> PackPlanner:
    """Return a planner of packs in `folder` for devices that are made up, with `changed` fields of its own."""
    launcher = Launcher(Local(device="cpu"), ScriptedExecutor(slots=slots))
    return PackPlanner(settings=settings, launcher=launcher, folder=folder, **changed)


def all_fit(shapes: Sequence[Sequence[PendingTraining]]) -> list[StackTimings]:
    return [FITS for _ in shapes]


def never(shapes: Sequence[Sequence[PendingTraining]]) -> list[StackTimings]:
    raise AssertionError("a step was measured")


def numbers_of(trainings: Sequence[PendingTraining]) -> list[int]:
    return [int(training.name.rpartition(" ")[2]) for training in trainings]


def test_tasks_are_grouped_by_shape(small: Dataset, tmp_path: Path) -> None:
    settings = [
        settings_of(seed=0),
        settings_of(seed=1, train=replace(TRAIN, optimizer="sgd", epochs=7)),
        settings_of(train=replace(TRAIN, batch_size=32)),
        settings_of(network=MLP(depth=4, width=16)),
        settings_of(network=CustomNetwork(name="own_networks:plain")),
        settings_of(seed=3, train=replace(TRAIN, precision="fp32")),
        settings_of(train=replace(TRAIN, compile=True)),
    ]
    trainings = pending(write_tasks(tmp_path, small, settings))
    groups = planner_of(tmp_path, Pack(trial=False), measure=all_fit).group_by_shape(trainings)
    assert [numbers_of(group.trainings) for group in groups] == [[0, 1], [2], [3], [4], [5], [6]]
    assert [group.stack_size for group in groups] == [2, 1, 1, 1, 1, 1]
    assert [group.stack_size for group in planner_of(tmp_path, None).group_by_shape(trainings)] == [1]


def test_what_is_known_is_not_tried_again(small: Dataset, tmp_path: Path) -> None:
    tried: list[list[int]] = []

    def trial(shapes: Sequence[Sequence[PendingTraining]]) -> list[StackTimings]:
        tried.append([len(trainings) for trainings in shapes])
        return [StackTimings(step_seconds={1: 1.0, 2: 0.5, 4: 0.25}, max_size=99) for _ in shapes]

    trainings = pending(write_tasks(tmp_path, small, [settings_of(seed=number) for number in range(6)]))
    timings: TimingCache = {}
    planner = planner_of(tmp_path, Pack(), timings=timings, measure=trial)
    assert [group.stack_size for group in planner.group_by_shape(trainings)] == [6]
    again = planner_of(tmp_path, Pack(), timings=timings, measure=never)
    assert [group.stack_size for group in again.group_by_shape(trainings[:3])] == [3]
    assert [group.stack_size for group in again.group_by_shape(trainings[:1])] == [1]
    assert tried == [[6]]


def test_what_is_packed_is_written_down_and_kept(small: Dataset, tmp_path: Path) -> None:
    settings = [settings_of(seed=number) for number in range(4)] + [settings_of(network=MLP(depth=2))]
    folders = write_tasks(tmp_path / "tasks", small, settings)
    trainings = pending(folders)
    always = Pack(trial=False, memory_gib=1.0)
    jobs = planner_of(tmp_path / "packs", always, measure=all_fit).plan(trainings)
    assert [job.name for job in jobs] == ["pack of 4", "training 4"]
    assert Job.read(jobs[0].folder).options == {"capacity": 4}
    assert Job.read(jobs[0].folder).members == tuple(
        Member(
            folder=folders[number],
            name=f"training {number}",
            pause_after=2,
            stack_size=4,
            required_room=4 if number == 0 else 1,
        )
        for number in range(4)
    )
    # Two are done: the pack is the same, and nothing is measured again.
    again = planner_of(tmp_path / "packs", always, measure=never).plan([trainings[1], trainings[4]])
    assert [job.folder for job in again] == [jobs[0].folder, folders[4]]
    assert again[0].members == jobs[0].members
    assert (again[0].name, again[0].cost) == ("pack of 1", 1.0)
    alone = planner_of(tmp_path / "packs", None).plan([trainings[1], trainings[4]])
    assert [job.folder for job in alone] == [folders[1], folders[4]]


def test_another_grouping_is_dealt_anew(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(3)])
    trainings = pending(folders)
    planner_of(tmp_path / "packs", Pack(trial=False), measure=all_fit).plan(trainings)
    slower = StackTimings(step_seconds={1: 1.0, 2: 1.0}, max_size=99)
    jobs = planner_of(tmp_path / "packs", Pack(), measure=lambda shapes: [slower]).plan(trainings)
    assert [job.name for job in jobs] == ["training 0", "training 1", "training 2"]
    assert checkpoint.read_json(tmp_path / "packs" / PACK_LIST)["packs"] == []


def test_packs_of_an_earlier_version_are_refused(small: Dataset, tmp_path: Path) -> None:
    trainings = pending(write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(2)]))
    checkpoint.write_json(tmp_path / "packs" / PACK_LIST, ["cpu"])
    with pytest.raises(UserError) as caught:
        planner_of(tmp_path / "packs", Pack()).plan(trainings)
    assert str(caught.value) == (f"{tmp_path / 'packs'} holds packs of an earlier version; continue with that version")


def test_how_trainings_of_a_shape_will_train_is_printed(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings = pending(write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(3)]))
    twice = StackTimings(step_seconds={1: 1.0, 2: 0.5}, max_size=99)
    planner_of(tmp_path / "packs", Pack(), measure=lambda shapes: [twice], show_timings=True).plan(trainings)
    expected = (
        "training 0 and 2 more of the same shape train in stacks of 3: in a trial, stacks of 2 were 2.00 times as "
    )
    assert capsys.readouterr().out.replace("\n", " ").startswith(expected)


def test_those_that_are_not_stacked_wait_in_as_many_queues_as_run_at_once(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(5)])

    def jobs_on(slots: Sequence[Slot]) -> list[Job]:
        folder = tmp_path / str(slots[0].processes)
        return planner_of(folder, None, slots, one_process_per_core=True).plan(pending(folders))

    jobs = jobs_on([Slot(kind="cpu", processes=3)])
    assert sorted(len(job.members) for job in jobs) == [1, 2, 2]
    assert sorted(member.folder for job in jobs for member in job.members) == sorted(folders)
    assert all(Job.read(job.folder).options["capacity"] == 1 for job in jobs)
    assert len(jobs_on([Slot(kind="cpu", processes=1)])) == 1


# ---- Several devices.


def test_an_equal_part_of_each_shape_goes_to_every_device(small: Dataset, tmp_path: Path) -> None:
    wide = [settings_of(seed=number, network=MLP(depth=4, width=16)) for number in range(6)]
    settings = [settings_of(seed=number) for number in range(16)] + wide
    trainings = pending(write_tasks(tmp_path / "tasks", small, settings))
    four = [Slot(kind="cuda")] * 4
    jobs = planner_of(tmp_path / "packs", Pack(trial=False), four, measure=all_fit).plan(trainings[:16])
    assert [job.name for job in jobs] == ["pack of 4"] * 4
    assert {job.resources.kind for job in jobs} == {"cuda"}
    assert [job.folder.name for job in jobs] == ["cuda0", "cuda1", "cuda2", "cuda3"]
    assert [Job.read(job.folder).options["capacity"] for job in jobs] == [4] * 4

    both = planner_of(tmp_path / "both", Pack(trial=False), four, measure=all_fit).plan(trainings)
    assert sorted(len(job.members) for job in both) == [5, 5, 6, 6]


def test_stacks_are_tried_as_large_as_one_device_gets(small: Dataset, tmp_path: Path) -> None:
    trainings = pending(write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(6)]))
    tried: list[list[int]] = []

    def trial(shapes: Sequence[Sequence[PendingTraining]]) -> list[StackTimings]:
        tried.append([len(trainings) for trainings in shapes])
        return [StackTimings(step_seconds={1: 1.0, 2: 0.5}, max_size=99) for _ in shapes]

    jobs = planner_of(tmp_path / "packs", Pack(), [Slot(kind="cuda")] * 2, measure=trial).plan(trainings)
    assert tried == [[3]]
    assert [len(job.members) for job in jobs] == [3, 3]


# ---- The trial as a job.


@pytest.mark.parametrize("trial", [True, False])
def test_a_trial_is_a_job_whose_folder_nobody_shares(trial: bool, small: Dataset, tmp_path: Path) -> None:
    root = tmp_path / "run"
    folders = write_tasks(root / "tasks", small, [settings_of(seed=number) for number in range(2)])
    executor = ScratchExecutor(root, tmp_path / "scratch")
    launcher = Launcher(Local(device="cpu", threads=1), executor)
    planner = PackPlanner(settings=Pack(trial=trial), launcher=launcher, folder=root / "packs")
    jobs = planner.plan(pending(folders))
    assert [job.kind for job in executor.started] == ["pack_trial"]
    [timings] = planner.timings.values()
    assert list(timings.step_seconds) == ([1, 2] if trial else [])
    assert timings.max_size > 2
    assert trial or [job.name for job in jobs] == ["pack of 2"]


def test_trainings_that_fail_in_a_trial_are_not_stacked_and_leave_the_others_be(small: Dataset, tmp_path: Path) -> None:
    """They meet their error when they train, and report it in their own folders."""
    root = tmp_path / "run"
    settings = [settings_of(seed=number) for number in range(4)]
    for broken in settings[2:]:
        broken.network = CustomNetwork(name="own_networks:breaking")
    folders = write_tasks(root / "tasks", small, settings)
    launcher = Launcher(Local(device="cpu", threads=1), ScratchExecutor(root, tmp_path / "scratch"))
    planner = PackPlanner(settings=Pack(trial=False), launcher=launcher, folder=root / "packs")
    jobs = planner.plan(pending(folders))
    assert [job.name for job in jobs] == ["pack of 2", "training 2", "training 3"]
    assert not list((tmp_path / "scratch").rglob("copies"))


def test_a_training_that_does_not_fit_is_named(small: Dataset, tmp_path: Path) -> None:
    root = tmp_path / "run"
    folders = write_tasks(root / "tasks", small, [settings_of(seed=number) for number in range(2)])
    launcher = Launcher(Local(device="cpu", threads=1), ScratchExecutor(root, tmp_path / "scratch"))
    planner = PackPlanner(settings=Pack(memory_gib=1e-6), launcher=launcher, folder=root / "packs")
    with pytest.raises(UserError) as caught:
        planner.plan(pending(folders))
    assert str(caught.value).startswith("One training of the pack needs ")
    assert str(caught.value).endswith("; raise grouping.memory_gib, or train smaller networks or batches")
