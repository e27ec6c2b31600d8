"""Tests of the executor of processes: who starts when, on which device, and with how many threads."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from partrain.device import device_names, num_cores
from partrain.launch import processes
from partrain.launch.executor import Slot
from partrain.launch.processes import ProcessExecutor, ProcessHandle, divide_cores
from partrain.launch.settings import Local
from partrain.training.job import Job, Resources


class RunningHandle(ProcessHandle):
    """A job whose process is only made up."""

    def __init__(self, job: Job, devices: list[str], threads: int, processes: str) -> None:
        self.job, self.devices, self.threads = job, tuple(devices), 0
        self.has_ended = False
        job.folder.mkdir(exist_ok=True)
        self.set_threads(threads)

    @property
    def is_running(self) -> bool:
        return not self.has_ended


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be four cores, and no process."""
    monkeypatch.setattr(processes, "num_cores", lambda: 4)
    monkeypatch.setattr(processes, "ProcessHandle", RunningHandle)


def job_of(folder: Path, name: str, cost: float = 1.0, kind: str = "cpu", devices: int | None = 1) -> Job:
    return Job(
        folder=folder / name, kind="segment", name=name, cost=cost, resources=Resources(kind=kind, devices=devices)
    )


@pytest.mark.parametrize(
    ("cores", "costs", "threads"),
    [
        (4, [1.0], [4]),
        (4, [3.0, 1.0], [3, 1]),
        (3, [1.0, 1.0, 5.0], [1, 1, 1]),
        (2, [1.0, 1.0, 5.0], [1, 1, 1]),
        (6, [1.0, 1.0, 4.0], [1, 1, 4]),
        (4, [], []),
    ],
)
def test_threads_go_where_the_work_is(cores: int, costs: list[float], threads: list[int]) -> None:
    assert divide_cores(cores, costs) == threads


@pytest.mark.parametrize(("fixed", "shares", "left"), [("auto", [3, 1], 4), (2, [2, 2], 2)])
def test_cores_of_a_job_that_ends_go_to_the_others(
    fixed: str | int, shares: list[int], left: int, tmp_path: Path
) -> None:
    executor = ProcessExecutor(Local(device="cpu", threads=fixed))
    handles = [executor.start(job_of(tmp_path, name, cost)) for name, cost in (("a", 6.0), ("b", 2.0))]
    assert None not in handles
    executor.share_cores([handle for handle in handles if handle is not None])
    assert [int((tmp_path / name / "threads").read_text()) for name in "ab"] == shares
    executor.share_cores([handle for handle in handles[1:] if handle is not None])
    assert int((tmp_path / "b" / "threads").read_text()) == left


def test_no_more_jobs_at_once_than_cores_and_a_gang_all_together(tmp_path: Path) -> None:
    def running(kind: str, threads: str | int, gang: str | None = None) -> int:
        executor = ProcessExecutor(Local(threads=threads), devices=[kind])
        jobs = [job_of(tmp_path, str(number), kind=kind) for number in range(6)]
        started = [executor.start(Job(**{**vars(job), "gang": gang})) for job in jobs]
        return 6 - started.count(None)

    assert (running("cpu", "auto"), running("cpu", 2), running("cpu", 8), running("cuda:0", 1)) == (4, 2, 1, 6)
    assert running("cpu", 2, gang="ranks") == 6


def test_room_is_there_again_once_a_job_has_ended(tmp_path: Path) -> None:
    executor = ProcessExecutor(Local(device="cpu", threads=4))
    first = executor.start(job_of(tmp_path, "a"))
    assert isinstance(first, RunningHandle)
    assert executor.start(job_of(tmp_path, "b")) is None
    first.has_ended = True
    assert executor.start(job_of(tmp_path, "b")) is not None


FOUR = [f"cuda:{index}" for index in range(4)]


def test_jobs_are_spread_over_devices_by_their_cost(tmp_path: Path) -> None:
    executor = ProcessExecutor(Local(), devices=FOUR)
    handles = [executor.start(job_of(tmp_path, str(number), kind="cuda")) for number in range(8)]
    used = [handle.devices[0] for handle in handles if handle is not None]
    assert [used.count(device) for device in FOUR] == [2, 2, 2, 2]

    executor = ProcessExecutor(Local(), devices=FOUR[:2])
    costs = {"a": 5.0, "b": 2.0, "c": 2.0, "d": 2.0}
    placed = {name: executor.start(job_of(tmp_path, name, cost, "cuda")) for name, cost in costs.items()}
    assert {name: handle.devices for name, handle in placed.items() if handle} == {
        "a": ("cuda:0",),
        "b": ("cuda:1",),
        "c": ("cuda:1",),
        "d": ("cuda:1",),
    }


def test_the_processes_of_a_gang_share_no_device_whatever_they_cost(tmp_path: Path) -> None:
    executor = ProcessExecutor(Local(), devices=FOUR)
    used = []
    for rank, cost in enumerate((100.0, 0.0, 50.0, 20.0)):  # One that has no matrix product counts as no work.
        handle = executor.start(replace(job_of(tmp_path, str(rank), cost, "cuda"), gang="ranks"))
        assert handle is not None
        used += handle.devices
    assert sorted(used) == FOUR


def test_a_job_may_take_all_devices(tmp_path: Path) -> None:
    executor = ProcessExecutor(Local(), devices=FOUR)
    handle = executor.start(job_of(tmp_path, "shards", kind="cuda", devices=None))
    assert handle is not None
    assert list(handle.devices) == FOUR


def test_capacity_is_a_slot_for_each_device_and_the_cpu_is_one() -> None:
    [cpu] = ProcessExecutor(Local(device="cpu", threads=2)).capacity()
    assert (cpu.kind, cpu.processes) == ("cpu", 2)
    assert ProcessExecutor(Local(device="cpu")).capacity()[0].processes == 4


def test_slots_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "computes_bf16", lambda device: device.index != 1)
    slots = ProcessExecutor(Local(), devices=FOUR[:2]).capacity()
    assert slots == [Slot(kind="cuda", computes_bf16=True), Slot(kind="cuda", computes_bf16=False)]


def test_num_cores_is_what_this_process_may_use() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    assert device_names()[0] == "cpu"
