"""Tests on a real disk that is full: the run names the file that it cannot write, and can be resumed once there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripting import DATA, model_bytes, run_script, small_settings

import partrain
from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.networks import MLP
from partrain.training.optimization import TrainSettings

MOUNT = ["mount", "-t", "tmpfs", "-o", "size=1M", "partrain-test"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of one mebibyte, and yield its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run([*MOUNT, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_on_a_full_disk_goes_on_once_there_is_room(small: Dataset, disk: Path, tmp_path: Path) -> None:
    settings = small_settings(
        network=MLP(depth=3, widths=[512, 32]),
        train=TrainSettings(epochs=3, batch_size=64, precision="fp32", early_stop=0, checkpoint_seconds=1e-6),
    )
    partrain.run(settings, tmp_path / "roomy", dataset=small, show_progress=False)
    filler = disk / "filler"
    filler.write_bytes(
        bytes(600 << 10)
    )  # The first segment's checkpoint needs more than is free, the second's does not.
    with pytest.raises(JobFailed) as caught:
        partrain.run(settings, disk / "run", dataset=small, show_progress=False)
    assert str(caught.value).startswith(
        f"Segment 0: {disk}/run/segments/0/checkpoint.safetensors could not be written: "
    )
    assert "No space left on device" in str(caught.value)
    assert caught.value.is_user_error
    assert not list((disk / "run/segments/0").glob(".*"))  # The file that was begun is deleted.

    subprocess.run(["mount", "-o", "remount,size=8M", str(disk)], check=True)
    partrain.run(settings, disk / "run", dataset=small, show_progress=False)
    assert model_bytes(disk / "run") == model_bytes(tmp_path / "roomy")


def test_a_disk_without_room_for_anything(disk: Path) -> None:
    (disk / "filler").write_bytes(bytes(1 << 20))
    outcome = run_script("train", *DATA, f"hydra.run.dir={disk}")
    assert outcome.code == 1
    assert outcome.error == "error: [Errno 28] No space left on device"  # Hydra's own files come first.


def test_a_cache_without_room_for_the_data(disk: Path, tmp_path: Path) -> None:
    cache = disk / "cache"
    arguments = ["data.limit_train=1400", "data.limit_test=200", f"data.cache={cache}", "partition.dry_run=true"]
    outcome = run_script("train", *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert outcome.error == (
        f"error: {cache} has no room for the prepared data (No space left on device). "
        "Free space, or set data.cache or $PARTRAIN_CACHE to another folder."
    )
    assert not list(cache.iterdir())
