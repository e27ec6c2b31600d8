"""Stored activations: one file that is whole or not there, mapped as the values that the left segment computes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scripting import small_settings
from torch import Tensor, nn
from trainings import train, weights, write_tasks

from partrain.boundaries.activations import open_outputs, store_outputs
from partrain.data import Dataset
from partrain.data.batches import Batch
from partrain.errors import UserError
from partrain.settings import Sequential
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings

NUM_IMAGES = 2500  # two whole blocks and a part of one


def store(path: Path, dtype: torch.dtype) -> Tensor:
    """Store what a convolution makes of random images, and return what it makes of them all at once."""
    torch.manual_seed(0)
    images = torch.rand(NUM_IMAGES, 2, 3, 3)
    module = nn.Conv2d(2, 5, 2).to(dtype)

    def sample(batch: Batch) -> tuple[Tensor, Tensor]:
        return images[batch.indices], batch.indices

    blocks = [module(block.to(dtype)).detach() for block in images.split(1024)]
    num_bytes = store_outputs(path, module, sample, NUM_IMAGES, torch.device("cpu"))
    assert module.training
    assert num_bytes == NUM_IMAGES * 5 * 2 * 2 * dtype.itemsize
    return torch.cat(blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_stored_is_read_bit_for_bit_from_a_single_file(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "boundaries/1.safetensors"
    expected = store(path, dtype)
    assert [file.name for file in path.parent.iterdir()] == ["1.safetensors"]
    outputs = open_outputs(path)
    assert outputs.dtype == dtype
    assert torch.equal(outputs, expected)
    assert torch.equal(load_file(path)["outputs"], expected)


def test_outputs_are_mapped_and_not_copied_to_memory(tmp_path: Path) -> None:
    path = tmp_path / "1.safetensors"
    store(path, torch.float32)
    outputs = open_outputs(path)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(bytes(4))
    assert outputs[-1, -1, -1, -1] == 0


@pytest.mark.parametrize("length", [0, 7, 40, 200, -1])
def test_a_file_cut_short_is_damaged(length: int, tmp_path: Path) -> None:
    path = tmp_path / "1.safetensors"
    store(path, torch.float32)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(checkpoint.DamagedFile) as caught:
        open_outputs(path)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith("). Delete it and resume the run.")


def test_a_changed_header_never_gives_other_values(tmp_path: Path) -> None:
    path = tmp_path / "1.safetensors"
    expected = store(path, torch.float32)
    whole = path.read_bytes()
    for place in range(8 + int.from_bytes(whole[:8], "little")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            outputs = open_outputs(path)
        except checkpoint.DamagedFile:
            continue
        assert torch.equal(outputs, expected), f"byte {place}"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_outputs(tmp_path / "1.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/1.safetensors is missing: the segment to the left has not stored its outputs. Resume the run."
    )


class KilledError(BaseException):
    """The end of a process, at a moment that a test chooses."""


def killed_after_a_file_in(folder: Path) -> Callable[..., None]:
    """Return a `write_atomic` whose process is killed once a file in `folder` is written."""
    write_atomic = checkpoint.write_atomic

    def write(path: Path, *arguments: object, **options: bool) -> None:
        write_atomic(path, *arguments, **options)  # type: ignore[arg-type]
        if path.resolve().parent == folder:
            raise KilledError

    return write


def test_killed_while_outputs_are_stored_again_the_right_segment_trains(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(
        train=TrainSettings(epochs=1, batch_size=64, precision="fp32"),
        schedule=Sequential(last_input="stored"),
    )
    undisturbed, right_undisturbed = write_tasks(tmp_path / "a", small, [settings])[:2]
    left, right = write_tasks(tmp_path / "b", small, [settings])[:2]
    assert train(undisturbed)
    assert train(left)
    boundaries = (left / "../../boundaries").resolve()
    shutil.rmtree(boundaries)  # as a finished run has none, of which a segment is trained again
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", killed_after_a_file_in(boundaries))
        with pytest.raises(KilledError):
            train(left)
    assert train(left)
    assert train(right)
    assert train(right_undisturbed)
    assert checkpoint.load_metadata(left / "checkpoint.safetensors")["stored_bytes"] == 640 * 32 * 4
    for name, tensor in weights(right_undisturbed).items():
        assert torch.equal(weights(right)[name], tensor), name
