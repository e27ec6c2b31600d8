"""Tests of launch=inline: everything happens in this process, one job after another."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_networks
import pytest
import torch
from scripting import model_bytes, small_settings

import partrain
from partrain import RunSettings
from partrain.data import Dataset
from partrain.errors import JobFailed, UserError
from partrain.launch.processes import ProcessHandle
from partrain.launch.settings import Inline, Local
from partrain.networks import CustomNetwork
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.settings import Sequential
from partrain.shards.settings import Shards
from partrain.strategies.settings import DataParallel
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining

INLINE = Inline(device="cpu", threads=1)
TRAIN = TrainSettings(epochs=2, batch_size=64, early_stop=0, precision="fp32")


def settings_of(**changed: Any) -> RunSettings:
    """Return the settings of a run in this process, with some of them changed."""
    return small_settings(**{"train": TRAIN, "launch": INLINE, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": Sequential(last_input="stored", recovery_epochs=1)},
        {"grouping": Pack(trial=False), "partition": PartitionSettings(segments=4)},
    ],
    ids=["sequential", "pack"],
)
def test_it_ends_with_the_bits_of_processes(
    changed: dict[str, Any], small: Dataset, tmp_path: Path, started: list[ProcessHandle]
) -> None:
    partrain.run(settings_of(**changed), tmp_path / "inline", small, show_progress=False)
    assert started == []
    settings = replace(settings_of(**changed), launch=Local(device="cpu", threads=1))
    partrain.run(settings, tmp_path / "local", small, show_progress=False)
    assert model_bytes(tmp_path / "inline") == model_bytes(tmp_path / "local")


def test_layers_are_called_in_the_main_thread_of_this_process(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a breakpoint in one of them stops here."""
    places: set[tuple[int, bool]] = set()
    forward_backward = SegmentTraining.forward_backward

    def record(training: SegmentTraining, step: Any) -> torch.Tensor:
        places.add((os.getpid(), threading.current_thread() is threading.main_thread()))
        return forward_backward(training, step)

    monkeypatch.setattr(SegmentTraining, "forward_backward", record)
    partrain.run(settings_of(), tmp_path, small, show_progress=False)
    assert places == {(os.getpid(), True)}


def test_ctrl_c_in_a_step_writes_a_checkpoint(small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward_backward = SegmentTraining.forward_backward

    def press(training: SegmentTraining, step: Any) -> torch.Tensor:
        if training.task.index == 0 and step.batch.step == 7:
            signal.raise_signal(signal.SIGINT)
        return forward_backward(training, step)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentTraining, "forward_backward", press)
        with pytest.raises(KeyboardInterrupt):
            partrain.run(settings_of(), tmp_path / "run", small, show_progress=False)
    path = tmp_path / "run/segments/0/checkpoint.safetensors"
    assert partrain.storage.checkpoint.load_metadata(path)["step"] == 8
    partrain.run(settings_of(), tmp_path / "run", small, show_progress=False)
    partrain.run(settings_of(), tmp_path / "quiet", small, show_progress=False)
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "quiet")


def test_an_error_in_a_layer_is_told_as_that_of_a_process(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(network=CustomNetwork(name="own_networks:breaking"))
    with pytest.raises(JobFailed) as caught:
        partrain.run(settings, tmp_path, small, show_progress=False)
    assert "RuntimeError: out of coffee" in str(caught.value)
    assert Path(own_networks.__file__).name in str(caught.value)


def test_generators_and_threads_of_the_caller_stay(small: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        partrain.run(settings_of(), tmp_path, small, show_progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_progress_is_shown_while_a_job_runs(small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partrain.run(settings_of(), tmp_path, small)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("segment")]
    assert [line.partition("  ")[0] for line in lines] == [
        f"segment {index}: epoch {epoch}" for index in (0, 1) for epoch in (1, 2)
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"strategy": DataParallel()},
            "launch=inline does not work with strategy=data_parallel, whose processes train as one; leave it out",
        ),
        (
            {"grouping": Shards()},
            "launch=inline does not work with grouping=shards, which has a process for each device; leave it out",
        ),
    ],
)
def test_what_needs_processes_is_refused(changed: dict[str, Any], message: str, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        partrain.run(settings_of(**changed), tmp_path, small, show_progress=False)
    assert str(caught.value) == message


def test_a_run_in_another_thread_than_the_main_one(small: Dataset, tmp_path: Path) -> None:
    """Python allows no signal handlers there."""
    found: list[Any] = []

    def train() -> None:
        try:
            found.append(partrain.run(settings_of(), tmp_path, small, show_progress=False)["seed"])
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [settings_of().seed]
