"""Tests of processes that depend on one another: a lost one ends the run, and the run can be resumed."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from scripting import model_bytes, small_settings, wait_until

import partrain
from partrain import RunSettings
from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.launch import supervisor
from partrain.launch.group import open_store
from partrain.networks import CustomSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.strategies.settings import StrategySettings

STRATEGIES = ["data_parallel", "fully_sharded", "1f1b", "decoupled"]


def settings_of(strategy: str, timeout: float = 60) -> RunSettings:
    """Return the settings of a run of 40 epochs, 20 steps each."""
    settings = small_settings(strategy=StrategySettings(name=strategy, microbatches=2, timeout=timeout))
    return replace(settings, train=replace(settings.train, epochs=40, batch_size=32))


def step_of(folder: Path) -> int:
    """Return the step of the checkpoint in `folder`, or 0 if there is none."""
    path = folder / CHECKPOINT
    with suppress(FileNotFoundError):  # It is being replaced.
        return int(checkpoint.load_metadata(path)["step"])
    return 0


def signalled(number: int, run: Callable[[], object], started: list[supervisor.Job]) -> JobFailed:
    """Return the failure of `run` when process 1, some epochs into its training, is sent signal `number`."""

    def send() -> None:
        wait_until(lambda: len(started) == 2)
        wait_until(lambda: all(step_of(job.folder) >= 20 for job in started))
        job = started[1]
        assert job.process is not None
        os.kill(job.process.pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(JobFailed) as caught:
        run()
    thread.join()
    return caught.value


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[supervisor.Job]:
    """Return a list that grows by each job that is started."""
    jobs: list[supervisor.Job] = []
    start = supervisor.Job.start
    monkeypatch.setattr(supervisor.Job, "start", lambda job: (start(job), jobs.append(job)))
    return jobs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_process_ends_the_run_which_goes_on_from_the_last_epoch(
    strategy: str, small: Dataset, tmp_path: Path, started: list[supervisor.Job]
) -> None:
    settings = settings_of(strategy)
    run = tmp_path / "run"
    failure = signalled(
        signal.SIGKILL, lambda: partrain.run(settings, run, dataset=small, show_progress=False), started
    )
    log = run / "ranks/1/log.txt"
    assert str(failure) == f"Process 1 was killed by SIGKILL; see {log}. The other processes of its group were stopped."
    assert failure.is_user_error
    assert all(job.process is not None and job.process.poll() is not None for job in started)
    assert 20 <= step_of(run / "ranks/1") < 800

    partrain.run(settings, run, dataset=small, show_progress=False)
    undisturbed = tmp_path / "undisturbed"
    partrain.run(settings, undisturbed, dataset=small, show_progress=False)
    assert model_bytes(run) == model_bytes(undisturbed)
    assert not list(run.rglob("previous.safetensors"))
    again = len(started)
    partrain.run(settings, run, dataset=small, show_progress=False)
    assert len(started) == again  # what is finished is not done again


def test_a_process_that_hangs_ends_the_run_within_the_timeout(
    small: Dataset, tmp_path: Path, started: list[supervisor.Job]
) -> None:
    settings = settings_of("data_parallel", timeout=10)
    failure = signalled(
        signal.SIGSTOP, lambda: partrain.run(settings, tmp_path, dataset=small, show_progress=False), started
    )
    assert str(failure).startswith("process 0 of 2 lost its peers, or waited 10 s (strategy.timeout) for one: ")
    assert str(failure).endswith(". The other processes of its group were stopped.")
    assert failure.is_user_error
    assert all(job.process is not None and job.process.poll() is not None for job in started)


def test_the_cause_is_named_not_those_that_lost_the_process(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of("model_parallel")
    settings.network = CustomSettings(builder="own_networks:overflowing")
    with pytest.raises(JobFailed) as caught:
        partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert str(caught.value).startswith("Process 1: segment 1: the loss is ")
    assert caught.value.is_user_error


def test_groups_meet_at_ports_of_their_own() -> None:
    one, other = open_store(), open_store()
    assert len({0, one.port, other.port}) == 3
