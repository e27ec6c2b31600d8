"""Files that are whole or not there, and damage that is noticed."""

import json
from pathlib import Path

import pytest
import torch

from partrain.storage import checkpoint


def saved(folder: Path) -> Path:
    path = folder / "file.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, 2).bfloat16(), "empty": torch.zeros(0)}
    checkpoint.save(path, tensors, {"step": 3})
    return path


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path)
    tensors, metadata = checkpoint.load(path)
    assert metadata == {"step": 3} == checkpoint.load_metadata(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["b"].dtype == torch.bfloat16
    assert [file.name for file in tmp_path.iterdir()] == ["file.safetensors"]


def test_tensors_in_another_memory_layout_keep_their_values(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "file", {"image": image}, None)
    assert torch.equal(checkpoint.load(tmp_path / "file")[0]["image"], image)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DamagedFile) as caught:
            checkpoint.load(path)
        assert str(caught.value).startswith(f"{path} is damaged")
        assert str(caught.value).endswith("delete it and resume the run")


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_cut_short_is_noticed(tmp_path: Path, length: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(checkpoint.DamagedFile, match="is damaged"):
        checkpoint.load(path)
    if length != -1:
        with pytest.raises(checkpoint.DamagedFile, match="is damaged"):
            checkpoint.load_metadata(path)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    checkpoint.write_json(path, {"old": True})

    def fail_midway(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_atomic(path, fail_midway)
    assert checkpoint.read_json(path) == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(checkpoint.DamagedFile) as caught:
        checkpoint.read_json(path)
    assert str(caught.value).startswith(f"{path} is damaged (")
