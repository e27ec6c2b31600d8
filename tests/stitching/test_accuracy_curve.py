"""The accuracy curve: its weights are gone once it is written, at whichever moment a process was killed."""

import shutil
from pathlib import Path

import pytest
import torch
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.partition.plan import PartitionSettings
from partrain.stitching.accuracy_curve import accuracy_curve
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings


class KilledError(BaseException):
    """The end of a process, at a moment that a test chooses."""


def curve_of(times: dict[str, list[float]], folder: Path, data: Dataset, *, same_epochs: bool) -> list[float]:
    """Return the times of the curve of a run of two segments, whose epochs ended at these times."""
    train = TrainSettings(epochs=1, batch_size=64, precision="fp32", early_stop=0)
    settings = small_settings(train=train, partition=PartitionSettings(segments=2))
    partrain.run(settings, folder, dataset=data, show_progress=False)
    parts = [folder / f"segments/{name}" for name in times]
    for part, ended in zip(parts, times.values(), strict=True):
        tensors, _ = checkpoint.load(part / "checkpoint.safetensors")
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        for epoch, time in enumerate(ended, start=1):
            checkpoint.save(part / f"epochs/{epoch}.safetensors", weights, {"time": time})
    return [point["time"] for point in accuracy_curve(folder, parts, data, "cpu", same_epochs=same_epochs)]


def test_processes_in_step_have_a_point_for_each_epoch_whatever_their_clocks_say(
    small: Dataset, tmp_path: Path
) -> None:
    times = {"0": [1.0, 2.0, 3.0, *map(float, range(4, 12))], "1": [2.5, 3.5, 4.5, *map(float, range(5, 12))]}
    assert curve_of(times, tmp_path, small, same_epochs=True) == [2.5, 3.5, 4.5, *map(float, range(5, 12))]


def test_independent_segments_have_a_point_whenever_one_ends_an_epoch(small: Dataset, tmp_path: Path) -> None:
    times = {"0": [1.0, 2.0, 4.0], "1": [3.0, 5.0]}
    assert curve_of(times, tmp_path, small, same_epochs=False) == [3.0, 4.0, 5.0]


def test_killed_before_the_weights_are_deleted_they_are_deleted_the_next_time(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TrainSettings(epochs=2, batch_size=64, precision="fp32", early_stop=0)
    settings = small_settings(train=train, partition=PartitionSettings(segments=1))
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    part = tmp_path / "segments/0"
    tensors, _ = checkpoint.load(part / "checkpoint.safetensors")
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    for epoch in (1, 2):
        checkpoint.save(part / f"epochs/{epoch}.safetensors", weights, {"time": float(epoch)})

    def die(*arguments: object, **options: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KilledError):
            accuracy_curve(tmp_path, [part], small, "cpu", same_epochs=False)
    (part / "epochs/1.safetensors").unlink()  # as one that is killed while it deletes them
    curve = accuracy_curve(tmp_path, [part], small, torch.device("cpu"), same_epochs=False)
    assert [point["time"] for point in curve] == [1.0, 2.0]
    assert curve == checkpoint.read_json(tmp_path / "accuracy_curve.json")
    assert not (part / "epochs").exists()
