"""Tests of processes that depend on one another: a lost one ends the run, and the run can be resumed."""

import csv
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from scripting import model_bytes, small_settings, strategy_named, wait_until

import partrain
from partrain import RunSettings
from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.launch.processes import ProcessHandle
from partrain.launch.settings import Local
from partrain.launch.worker import STOPPED
from partrain.networks import CustomNetwork
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, METRICS, PROGRESS, RENDEZVOUS
from partrain.training.optimization import TrainSettings

STRATEGIES = ["data_parallel", "fully_sharded", "1f1b", "decoupled"]


def settings_of(strategy: str, timeout: float = 60, max_restarts: int = 0) -> RunSettings:
    """Return the settings of a run of 5 epochs, 20 steps each, with a round at every logged step."""
    settings = small_settings(
        strategy=strategy_named(strategy, microbatches=2, timeout=timeout),
        launch=Local(device="cpu", threads=1, max_restarts=max_restarts),
    )
    return replace(settings, train=replace(settings.train, epochs=5, batch_size=32, checkpoint_seconds=1e-9))


@pytest.fixture(scope="module")
def undisturbed(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the folder of a run by a strategy of which no process was disturbed."""

    @cache
    def run(strategy: str) -> Path:
        folder = tmp_path_factory.mktemp(strategy)
        partrain.run(settings_of(strategy), folder, dataset=small, show_progress=False)
        return folder

    return run


def step_of(folder: Path) -> int:
    """Return the step of the checkpoint in `folder`, or 0 if there is none."""
    path = folder / CHECKPOINT
    with suppress(FileNotFoundError):  # It is being replaced.
        return int(checkpoint.load_metadata(path)["step"])
    return 0


def metrics_of(run: Path) -> list[list[tuple[str, ...]]]:
    """Return the losses and accuracies of every epoch of the processes of a run."""
    names = ("epoch", "loss", "decode_accuracy")
    return [
        [tuple(row[name] for name in names) for row in csv.DictReader(path.read_text().splitlines())]
        for path in sorted(run.glob(f"ranks/*/{METRICS}"))
    ]


def signal_when_under_way(number: int, started: list[ProcessHandle]) -> threading.Thread:
    """Return a started thread that sends signal `number` to process 1 once some epochs are trained."""

    def send() -> None:
        wait_until(lambda: len(started) == 2)
        wait_until(lambda: all(step_of(handle.job.folder) >= 20 for handle in started))
        os.kill(started[1].process.pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def signalled(number: int, run: Callable[[], object], started: list[ProcessHandle]) -> JobFailed:
    """Return the failure of `run` when process 1, some epochs into its training, is sent signal `number`."""
    thread = signal_when_under_way(number, started)
    with pytest.raises(JobFailed) as caught:
        run()
    thread.join()
    return caught.value


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_process_ends_the_run_which_goes_on_from_the_last_round(
    strategy: str, small: Dataset, tmp_path: Path, started: list[ProcessHandle], undisturbed: Callable[[str], Path]
) -> None:
    settings = settings_of(strategy)
    run = tmp_path / "run"
    failure = signalled(
        signal.SIGKILL, lambda: partrain.run(settings, run, dataset=small, show_progress=False), started
    )
    log = run / "ranks/1/log.txt"
    assert str(failure) == f"Process 1 was killed by SIGKILL; see {log}. The other processes of its group were stopped."
    assert failure.is_user_error
    assert not any(handle.is_running for handle in started)
    assert 20 <= step_of(run / "ranks/1") < 100

    partrain.run(settings, run, dataset=small, show_progress=False)
    assert model_bytes(run) == model_bytes(undisturbed(strategy))
    assert not list(run.rglob("previous.safetensors"))
    again = len(started)
    partrain.run(settings, run, dataset=small, show_progress=False)
    assert len(started) == again  # what is finished is not done again


@pytest.mark.parametrize("strategy", ["data_parallel", "1f1b"])
def test_a_killed_process_starts_its_group_again(
    strategy: str,
    small: Dataset,
    tmp_path: Path,
    started: list[ProcessHandle],
    capsys: pytest.CaptureFixture[str],
    undisturbed: Callable[[str], Path],
) -> None:
    settings = settings_of(strategy, max_restarts=1)
    thread = signal_when_under_way(signal.SIGKILL, started)
    partrain.run(settings, tmp_path / "run", dataset=small, show_progress=False)
    thread.join()
    assert [handle.job.name for handle in started] == ["process 0", "process 1"] * 2
    assert "Process 1 was killed by SIGKILL; it restarts from its checkpoint." in capsys.readouterr().out
    assert model_bytes(tmp_path / "run") == model_bytes(undisturbed(strategy))


@pytest.mark.parametrize("strategy", ["data_parallel", "1f1b", "decoupled"])
def test_a_stop_ends_all_processes_together_and_loses_at_most_an_epoch(
    strategy: str, small: Dataset, tmp_path: Path, started: list[ProcessHandle], undisturbed: Callable[[str], Path]
) -> None:
    settings = settings_of(strategy)
    settings.train.checkpoint_seconds = 600.0
    run = tmp_path / "run"

    def interrupt() -> None:
        wait_until(lambda: len(started) == 2)
        wait_until(lambda: all((handle.job.folder / PROGRESS).exists() for handle in started))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        partrain.run(settings, run, dataset=small, show_progress=False)
    thread.join()
    assert not any(handle.is_running for handle in started)
    steps = [step_of(handle.job.folder) for handle in started]
    if strategy != "decoupled":  # Its processes end within an epoch without a checkpoint.
        assert steps[0] == steps[1] > 0
        assert {handle.process.returncode for handle in started} == {STOPPED}
    partrain.run(settings, run, dataset=small, show_progress=False)
    assert model_bytes(run) == model_bytes(undisturbed(strategy))
    assert metrics_of(run) == metrics_of(undisturbed(strategy))


def test_a_process_that_hangs_ends_the_run_within_the_timeout(
    small: Dataset, tmp_path: Path, started: list[ProcessHandle]
) -> None:
    settings = settings_of("data_parallel", timeout=10)
    failure = signalled(
        signal.SIGSTOP, lambda: partrain.run(settings, tmp_path, dataset=small, show_progress=False), started
    )
    log = tmp_path / "ranks/1/log.txt"
    assert (
        str(failure) == f"Process 1 did not answer its peers; see {log}. The other processes of its group were stopped."
    )
    assert failure.is_user_error
    assert not any(handle.is_running for handle in started)


def test_the_cause_is_named_not_those_that_lost_the_process(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of("model_parallel")
    settings.network = CustomNetwork(name="own_networks:overflowing")
    with pytest.raises(JobFailed) as caught:
        partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert str(caught.value).startswith("Process 1: segment 1: the loss is ")
    assert caught.value.is_user_error


def test_no_address_is_in_a_job_and_each_start_makes_its_own(small: Dataset, tmp_path: Path) -> None:
    settings = replace(settings_of("data_parallel"), train=TrainSettings(epochs=1, batch_size=64))
    (tmp_path / "ranks/0").mkdir(parents=True)
    checkpoint.write_json(tmp_path / "ranks/0" / RENDEZVOUS, {"host": "127.0.0.1", "port": 1})  # Of an earlier start.
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert checkpoint.read_json(tmp_path / "ranks/0" / RENDEZVOUS)["port"] != 1
    assert "127.0.0.1" not in "".join(path.read_text() for path in tmp_path.glob("ranks/*/job.json"))
