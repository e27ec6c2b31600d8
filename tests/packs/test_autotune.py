"""What is advised, how many trainings fit, and which process trains what."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from packing import TRAIN, settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.device import num_cores
from partrain.launch.settings import LaunchSettings
from partrain.networks import CustomSettings, MLPSettings
from partrain.packs.autotune import Advice, advise, capacity, dry_run
from partrain.packs.capacity import LiveBytes, Need
from partrain.packs.planner import Known, Work, group, processes
from partrain.packs.task import PackTask
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_FILE
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask


def tasks_of(folder: Path, small: Dataset, count: int) -> list[SegmentTask]:
    settings = [settings_of(seed=number) for number in range(count)]
    return [SegmentTask.read(path) for path in write_tasks(folder, small, settings)]


def test_live_bytes_are_those_of_tensors_that_live_at_once() -> None:
    before = torch.zeros(1000)
    with LiveBytes() as live:
        first = torch.zeros(256)
        view = first.view(16, 16)
        second = before + 1
        del second
        third = torch.ones(100, dtype=torch.float64)
    assert live.peak == 4 * 256 + 4 * 1000
    assert live.now == 4 * 256 + 8 * 100
    assert view.shape == (16, 16)
    assert third.sum() == 100


def test_how_many_fit() -> None:
    need = Need.through((2, 700), (3, 900))
    assert need == Need(fixed=300, each=200)
    assert [need.capacity(budget) for budget in (499, 500, 1099, 1100)] == [0, 1, 3, 4]


def test_a_dry_run_counts_weights_gradients_state_and_activations(small: Dataset, tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, small, 3)
    need = dry_run(tasks)
    assert need == dry_run(tasks)
    numbers = 64 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 5 + 5
    assert 4 * 8 * numbers < need.each < 4 * 8 * numbers + 64 * 8 * (64 * 4 + 6 * 32 * 3)
    assert capacity(tasks, need.fixed + 5 * need.each) == 5


def test_the_fastest_size_is_taken_if_it_is_worth_it(small: Dataset, tmp_path: Path) -> None:
    spent = {1: 10.0, 2: 12.0, 4: 18.0, 8: 33.0, 16: 80.0}  # milliseconds of a step of all
    tried: list[int] = []

    def trial(trainings: Sequence[SegmentTraining]) -> float:
        tried.append(len(trainings))
        return spent[len(trainings)]

    tasks = tasks_of(tmp_path, small, 3) * 6
    found = advise(tasks, 10**9, trial)
    assert tried == [1, 2, 4, 8, 16]
    assert [found.stack_size(count) for count in (18, 8, 5)] == [8, 8, 5]
    assert found.sentence(18) == "stacks of 8, 2.42 times as fast as one after another in a trial"
    need = dry_run(tasks)
    narrow = advise(tasks, need.fixed + 5 * need.each, trial)
    assert max(narrow.seconds) == 4  # what fits
    # stacks of 8 were not tried, so as many as fit
    assert narrow.sentence(18) == "stacks of 5, 2.22 times as fast as one after another in a trial of 4"
    assert found.among(16) == found
    assert found.among(99) == found  # larger stacks than 16 are slower
    fewer = found.among(5)
    assert fewer is not None
    assert list(fewer.seconds) == [1, 2, 4]
    assert fewer.among(7) == fewer
    assert fewer.stack_size(7) == 7
    assert fewer.among(8) is None  # stacks of 8 have to be tried
    slower = Advice(seconds={1: 10.0, 2: 9.5, 4: 11.0}, room=9)
    assert slower.stack_size(5) == 1
    assert slower.sentence(5) == "not stacked: in a trial stacks of 2 were 1.05 times as fast as one after another"


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
    folders = write_tasks(tmp_path, small, settings)
    tasks = {folder: SegmentTask.read(folder) for folder in folders}
    found = group(tasks, LaunchSettings(device="cpu", pack="always"))
    assert [[folders.index(path) for path in each.tasks] for each in found] == [[0, 1], [2], [3], [4], [5], [6]]
    assert [each.stack_size for each in found] == [2, 1, 1, 1, 1, 1]
    assert all(each.stack_size == 1 for each in group(tasks, LaunchSettings(device="cpu")))


def test_what_is_known_is_not_tried_again(small: Dataset, tmp_path: Path) -> None:
    tried: list[int] = []

    def trial(trainings: Sequence[SegmentTraining]) -> float:
        tried.append(len(trainings))
        return 1.0

    folders = write_tasks(tmp_path, small, [settings_of(seed=number) for number in range(6)])
    tasks = {folder: SegmentTask.read(folder) for folder in folders}
    known: Known = {}
    settings = LaunchSettings(device="cpu", pack="auto")
    assert [each.stack_size for each in group(tasks, settings, known, trial)] == [6]
    assert tried == [1, 2, 4]
    some = {folder: tasks[folder] for folder in folders[:3]}
    assert [each.stack_size for each in group(some, settings, known, trial)] == [3]
    assert tried == [1, 2, 4]
    group(some, settings, measure=trial)
    assert tried == [1, 2, 4, 1, 2]


def work_of(tasks: dict[Path, SegmentTask]) -> Work:
    work = Work()
    for number, (folder, task) in enumerate(tasks.items()):
        work.add(folder, task, f"training {number}", 1.0, pause=2)
    return work


def test_what_is_packed_is_written_down_and_kept(small: Dataset, tmp_path: Path) -> None:
    settings = [settings_of(seed=number) for number in range(4)] + [settings_of(network=MLPSettings(depth=2))]
    folders = write_tasks(tmp_path / "tasks", small, settings)
    tasks = {folder: SegmentTask.read(folder) for folder in folders}
    packed = LaunchSettings(device="cpu", pack="always", pack_memory_gib=1.0)
    jobs = processes(work_of(tasks), packed, tmp_path / "packs", show=False)
    assert [job.name for job in jobs] == ["pack of 4", "training 4"]
    assert PackTask.read(jobs[0].folder) == PackTask(
        members=[f"../../tasks/{number}/segments/0" for number in range(4)],
        pauses=[2] * 4,
        stack_sizes=[4] * 4,
        room=[4, 1, 1, 1],
        capacity=4,
    )
    assert jobs[0].trainings() == {folder: f"training {n}" for n, folder in enumerate(folders[:4])}
    # two are done: the pack is the same, whatever is asked for now
    left = {folder: tasks[folder] for folder in (folders[1], folders[4])}
    again = processes(work_of(left), LaunchSettings(device="cpu"), tmp_path / "packs", show=False)
    assert [job.folder for job in again] == [jobs[0].folder, folders[4]]


def test_a_pack_that_was_begun_before_some_of_its_keys_went_is_read(tmp_path: Path) -> None:
    task = PackTask(members=["../a"], pauses=[None], stack_sizes=[1], room=[1], capacity=1)
    task.write(tmp_path)
    path = tmp_path / PACK_FILE
    checkpoint.write_json(path, checkpoint.read_json(path) | {"alone_seconds": 2.0, "stacked_seconds": 1.0})
    assert PackTask.read(tmp_path) == task


def test_those_that_are_not_stacked_wait_in_as_many_queues_as_run_at_once(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path / "tasks", small, [settings_of(seed=number) for number in range(5)])
    tasks = {folder: SegmentTask.read(folder) for folder in folders}
    one_thread = LaunchSettings(device="cpu", threads=1)
    jobs = processes(work_of(tasks), one_thread, tmp_path / "packs", show=False, queue=True)
    assert len(jobs) == min(5, num_cores())
    assert sorted(folder for job in jobs for folder in job.trainings()) == sorted(folders)
    assert all(PackTask.read(job.folder).capacity == 1 for job in jobs)
    all_cores = LaunchSettings(device="cpu", threads=num_cores())
    assert len(processes(work_of(tasks), all_cores, tmp_path / "one", show=False, queue=True)) == 1
