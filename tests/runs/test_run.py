"""Tests of runs through the Python API: schedules, devices, and resuming a run of which a part is lost."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scripting import contents, model_bytes, small_settings
from torch import Tensor

import partrain
from partrain.boundaries.labels import HadamardLabels
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.launch.processes import ProcessHandle
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.settings import Parallel, RunSettings, Sequential
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.strategies.settings import ModelParallel
from partrain.training.optimization import TrainSettings

TRAIN = TrainSettings(epochs=3, batch_size=32, lr=3e-3, precision="fp32", early_stop=0)


def sequential() -> RunSettings:
    schedule = Sequential(last_input="stored", recovery_epochs=1, recovery_batch_size=32)
    return small_settings(train=TRAIN, schedule=schedule)


@pytest.fixture(scope="module")
def in_sequence(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the results of a sequential run of two segments, with a recovery epoch."""
    folder = tmp_path_factory.mktemp("sequential")
    return folder, partrain.run(sequential(), folder, dataset=small, show_progress=False)


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in checkpoint.load(folder / CHECKPOINT)[0].items() if name[:6] == "model."}


def test_a_sequential_run_with_recovery(in_sequence: tuple[Path, dict[str, Any]], small: Dataset) -> None:
    folder, results = in_sequence
    assert results == checkpoint.read_json(folder / "results.json")
    assert results["traffic_bytes"] == 640 * 32 * 4  # each training image's 32 features in fp32, once
    assert not (folder / "boundaries").exists()
    before, after = results["test_accuracy_before_recovery"], results["test_accuracy"]
    assert [segment["index"] for segment in results["segments"]] == [0, 1]
    assert results["segments"][1]["decode_accuracy"] == before
    assert after == partrain.evaluate(folder, small).top1
    assert min(before, after) > 0.8  # of five classes: it has learnt them
    model, recovered = partrain.load(folder).state_dict(), weights(folder / "recovery")
    assert all(torch.equal(model[name.removeprefix("model.")], tensor) for name, tensor in recovered.items())
    assert not torch.equal(model["linear0.weight"], weights(folder / "segments/0")["model.linear0.weight"])


def test_outputs_that_a_lost_segment_was_fed_are_stored_again(
    in_sequence: tuple[Path, dict[str, Any]], small: Dataset, tmp_path: Path, started: list[ProcessHandle]
) -> None:
    whole, _ = in_sequence
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "segments/1" / CHECKPOINT).unlink()
    first = contents(run / "segments/0")[CHECKPOINT]
    results = partrain.run(sequential(), run, dataset=small, show_progress=False)
    assert [handle.job.name for handle in started] == ["segment 0", "segment 1"]  # the first only to store its outputs
    assert contents(run / "segments/0")[CHECKPOINT] == first
    again, before = weights(run / "segments/1"), weights(whole / "segments/1")
    assert all(torch.equal(again[name], before[name]) for name in before)
    assert results["traffic_bytes"] == 640 * 32 * 4
    assert model_bytes(run) == model_bytes(whole)


def test_a_dry_run_returns_the_plan(small: Dataset, tmp_path: Path) -> None:
    settings = small_settings(partition=PartitionSettings(at=[1, 3], dry_run=True))
    plan = partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert [segment["layers"] for segment in plan["segments"]] == [["linear0"], ["linear1", "linear2"], ["linear3"]]
    assert checkpoint.read_json(tmp_path / "plan.json") == {"format": 2} | plan
    assert not (tmp_path / "segments").exists()


def test_batches_and_codes_that_cannot_be_are_said_before_anything_is_written(small: Dataset, tmp_path: Path) -> None:
    too_large = small_settings(train=TrainSettings(batch_size=641))
    too_narrow = small_settings(network=MLP(depth=2, width=4), labels=HadamardLabels())
    for settings, message in (
        (too_large, "train.batch_size=641 is larger than the training set of 640 images. Set it to 640 or less."),
        (too_narrow, "labels=hadamard gives at most 3 classes at a boundary of width 4, the data have 5; "),
    ):
        with pytest.raises(UserError) as caught:
            partrain.run(settings, tmp_path / "run", dataset=small, show_progress=False)
        assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_settings_survive_the_configuration_file(in_sequence: tuple[Path, dict[str, Any]]) -> None:
    stored = yaml.safe_load((in_sequence[0] / "config.yaml").read_text())
    assert stored == {"format": 2} | sequential().to_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_run_on_a_gpu_that_goes_on_on_the_cpu(small: Dataset, tmp_path: Path) -> None:
    on_gpu = small_settings(train=TRAIN, launch=Local(device="cuda", threads=1))
    results = partrain.run(on_gpu, tmp_path, dataset=small, show_progress=False)
    assert [segment["device"][:4] for segment in results["segments"]] == ["cuda", "cuda"]
    assert results["test_accuracy"] > 0.8
    (tmp_path / "segments/1" / CHECKPOINT).unlink()
    on_cpu = small_settings(train=TRAIN, launch=Local(device="cpu", threads=1))
    assert partrain.run(on_cpu, tmp_path, dataset=small, show_progress=False)["test_accuracy"] > 0.8


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_a_run_in_fp64(schedule: str, small: Dataset, tmp_path: Path) -> None:
    order = Parallel() if schedule == "parallel" else Sequential(last_input="stored")
    settings = small_settings(train=replace(TRAIN, precision="fp64", accuracy_curve=True), schedule=order)
    results = partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    model, _ = checkpoint.load(tmp_path / "model/model.safetensors")
    assert {tensor.dtype for tensor in model.values()} == {torch.float64}
    assert results["test_accuracy"] > 0.8
    assert results["accuracy_curve"][-1]["test_accuracy"] == results["test_accuracy"]
    again = partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert again["accuracy_curve"] == results["accuracy_curve"]  # The weights that it was computed from are gone.


def test_a_folder_of_a_search_is_refused(small: Dataset, tmp_path: Path) -> None:
    checkpoint.write_json(tmp_path / "search.json", {})
    with pytest.raises(UserError) as caught:
        partrain.run(small_settings(train=TRAIN), tmp_path, dataset=small, show_progress=False)
    assert str(caught.value) == (f"{tmp_path} holds a search; take a new folder, or resume it by partrain search")
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


def test_a_folder_of_another_strategy_is_refused(in_sequence: tuple[Path, dict[str, Any]], small: Dataset) -> None:
    folder, results = in_sequence
    settings = small_settings(train=TRAIN, strategy=ModelParallel())
    with pytest.raises(UserError) as caught:
        partrain.run(settings, folder, dataset=small, show_progress=False)
    assert str(caught.value) == (
        f"{folder} holds a run of another strategy (segments/0); start a new run in a new folder"
    )
    assert checkpoint.read_json(folder / "results.json") == results
