"""Tests of the devices and the numbers of threads that segments get."""

import os
from pathlib import Path

import pytest
from partrain.launch.placement import assign_devices, divide_cores

from partrain.device import available_devices, num_cores
from partrain.errors import UserError
from partrain.launch import supervisor
from partrain.launch.display import Display
from partrain.launch.settings import LaunchSettings
from partrain.launch.supervisor import supervise


def test_launching_nothing_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", started.append)
    supervise([], LaunchSettings())
    assert started == []


@pytest.mark.parametrize(
    ("cores", "costs", "threads"),
    [
        (2, [1.0, 1.0], [1, 1]),
        (8, [3.0, 1.0], [6, 2]),
        (4, [1.0], [4]),
        (3, [1.0, 1.0, 5.0], [1, 1, 1]),
        (2, [1.0, 1.0, 5.0], [1, 1, 1]),
        (6, [1.0, 1.0, 4.0], [1, 1, 4]),
        (4, [], []),
    ],
)
def test_threads_go_where_the_work_is(cores: int, costs: list[float], threads: list[int]) -> None:
    assert divide_cores(cores, costs) == threads


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partrain.launch.placement.available_devices", lambda: ["cpu"])
    assert assign_devices("auto", 3) == assign_devices("cpu", 3) == ["cpu"] * 3
    with pytest.raises(UserError) as caught:
        assign_devices("cuda", 2)
    assert str(caught.value) == "launch.device=cuda: there is no such device here; available: cpu or auto"

    monkeypatch.setattr("partrain.launch.placement.available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert assign_devices("auto", 3) == assign_devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert assign_devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert assign_devices("cpu", 2) == ["cpu", "cpu"]
    with pytest.raises(UserError) as caught:
        assign_devices("cuda:2", 1)
    assert str(caught.value) == (
        "launch.device=cuda:2: there is no such device here; available: cpu, cuda:0, cuda:1 or auto"
    )


@pytest.mark.parametrize(("fixed", "shares", "left"), [("auto", [3, 1], 4), (2, [2, 2], 2)])
def test_cores_of_a_segment_that_ends_go_to_the_others(
    fixed: str | int, shares: list[int], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two segments train on four cores. Their processes read the number of threads from files."""
    monkeypatch.setattr(supervisor, "num_cores", lambda: 4)
    monkeypatch.setattr(supervisor.Job, "start", lambda job: None)
    jobs = [supervisor.Job(tmp_path / name, name, "cpu", cost) for name, cost in (("a", 6.0), ("b", 2.0))]
    watching = supervisor.Supervisor(jobs, LaunchSettings(threads=fixed), Display([]))
    watching.start_jobs()
    assert [int((job.folder / "threads").read_text()) for job in jobs] == shares
    watching.running.remove(jobs[0])
    watching.assign_threads()
    assert int((tmp_path / "b" / "threads").read_text()) == left


def test_no_more_processes_at_once_than_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "num_cores", lambda: 4)
    monkeypatch.setattr(supervisor.Job, "start", lambda job: None)

    def running(device: str, threads: str | int) -> int:
        jobs = [supervisor.Job(tmp_path / str(index), str(index), device, 1.0) for index in range(6)]
        watching = supervisor.Supervisor(jobs, LaunchSettings(threads=threads), Display([]))
        watching.start_jobs()
        return len(watching.running)

    assert (running("cpu", "auto"), running("cpu", 2), running("cpu", 8), running("cuda:0", 1)) == (4, 2, 1, 6)


def test_num_cores_is_what_this_process_may_use() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    assert available_devices()[0] == "cpu"
