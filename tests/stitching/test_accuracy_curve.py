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
