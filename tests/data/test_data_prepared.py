"""Prepared folders: used again, damaged, made by two processes at once; and a user's own arrays."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import partrain.data
from partrain.data import Dataset, prepare_data
from partrain.data.settings import EMNIST
from partrain.errors import UserError

RACE = """
import sys, time
from pathlib import Path
from partrain.data import EMNIST, prepare_data, store

move_into_place = store.move_into_place
def move_after_both_are_ready(*args):
    Path(sys.argv[1]).touch()
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    move_into_place(*args)
store.move_into_place = move_after_both_are_ready
data = prepare_data(EMNIST(root=sys.argv[3], cache=sys.argv[4], download=False))
print(data.folder, int(data.train.images.sum()), int(data.test.labels.sum()))
"""


def message(*arrays: object, **options: object) -> str:
    """Return the message by which `Dataset.from_arrays` refuses its arguments."""
    with pytest.raises(UserError) as raised:
        Dataset.from_arrays(*arrays, **options)  # type: ignore[arg-type]
    return str(raised.value)


def test_settings_find_what_they_made(balanced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = EMNIST(root=str(balanced), download=False)
    made = prepare_data(settings)
    times = {file: file.stat().st_mtime_ns for file in made.folder.iterdir()}
    again = prepare_data(settings)
    assert capsys.readouterr().err == "Preparing emnist balanced: 5,640 images\n"
    assert again.folder == made.folder
    assert {file: file.stat().st_mtime_ns for file in made.folder.iterdir()} == times
    assert made.folder.parent == settings.cache_folder
    assert made.folder.name.startswith("emnist-balanced-")
    assert sorted(file.name for file in times) == sorted(
        ["data.json", "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
    )


def test_an_opened_folder_is_the_prepared_one(glyphs: Dataset) -> None:
    again = Dataset.open(str(glyphs.folder))
    assert torch.equal(again.train.images, glyphs.train.images)
    assert again.train.labels.dtype == torch.int64
    assert again.provenance() == glyphs.provenance()
    assert (again.classes, again.num_classes, again.mean, again.std) == (glyphs.classes, 47, glyphs.mean, glyphs.std)
    assert np.load(glyphs.folder / "train_labels.npy").dtype == np.uint8


def test_a_change_of_mapped_images_stays_out_of_the_file(balanced: Path, glyphs: Dataset) -> None:
    data = prepare_data(EMNIST(root=str(balanced), download=False), show_progress=False)
    data.train.images.zero_()
    assert torch.equal(Dataset.open(data.folder).train.images, glyphs.train.images)


def test_labels_are_read_without_opening_the_images(balanced: Path, glyphs: Dataset) -> None:
    folder = prepare_data(EMNIST(root=str(balanced), download=False), show_progress=False).folder
    for file in folder.glob("*_images.npy"):
        file.write_bytes(bytes(file.stat().st_size))
    data = Dataset.open(folder)
    assert torch.equal(data.train.labels, glyphs.train.labels)
    with pytest.raises(ValueError, match="pickle"):
        _ = data.train.images


def test_what_is_no_prepared_folder_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        Dataset.open(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} is not a prepared data set: it has no data.json. Prepare the data again, or name another folder."
    )
    (tmp_path / "data.json").write_text('{"format": 99}')
    with pytest.raises(UserError) as raised:
        Dataset.open(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} was prepared in format 99, expected 1. Delete {tmp_path} and prepare it again."
    )
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"data\.json is damaged \(.*\)\. Delete .* and prepare it again\."):
        Dataset.open(tmp_path)


def test_a_cache_that_cannot_be_written_to(balanced: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError) as raised:
        prepare_data(EMNIST(root=str(balanced), cache=str(file), download=False), show_progress=False)
    remedy = "Make it a writable folder, or set data.cache or $PARTRAIN_CACHE to another folder."
    assert str(raised.value) == f"{file} cannot be written to (File exists). {remedy}"


def test_a_truncated_array_is_noticed_and_made_again(
    balanced: Path, glyphs: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EMNIST(root=str(balanced), download=False)
    folder = prepare_data(settings, show_progress=False).folder
    file = folder / "train_images.npy"
    file.write_bytes(file.read_bytes()[:1000])
    damaged = f"{file} is damaged: it has 1000 bytes, expected 2947968."
    with pytest.raises(UserError) as raised:
        Dataset.open(folder)
    assert str(raised.value) == f"{damaged} Delete {folder} and prepare it again."
    with caplog.at_level(logging.WARNING):
        data = prepare_data(settings, show_progress=False)
    assert caplog.messages == [f"{damaged} The data are prepared again."]
    assert torch.equal(data.train.images, glyphs.train.images)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_two_processes_that_start_at_once(balanced: Path, tmp_path: Path, glyphs: Dataset) -> None:
    shared = str(tmp_path / "both")
    ready = [str(tmp_path / "one-is-ready"), str(tmp_path / "two-is-ready")]
    package = str(Path(partrain.data.__file__).parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, mine, others, str(balanced), shared],
            env=os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine, others in (ready, ready[::-1])
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    (folder,) = Path(shared).iterdir()
    assert outputs[0].split()[0] == str(folder)
    assert torch.equal(Dataset.open(folder).train.images, glyphs.train.images)


@pytest.mark.parametrize("as_torch", [True, False])
def test_own_arrays(glyphs: Dataset, *, as_torch: bool) -> None:
    colour = glyphs.train.images[:, None].repeat(1, 3, 1, 1)[:, :, :20]
    arrays = [colour, glyphs.train.labels, colour[:470], glyphs.train.labels[:470]]
    data = Dataset.from_arrays(*(arrays if as_torch else [array.numpy() for array in arrays]))  # type: ignore[arg-type]
    assert torch.equal(data.train.images, colour)
    assert torch.equal(data.test.labels, glyphs.train.labels[:470])
    assert (data.image_shape, data.num_classes, data.classes[46]) == ((3, 20, 28), 47, "46")
    counts = {"train_images": 3760, "test_images": 470}
    assert data.provenance() == {"name": "arrays", "split": None, **counts, "verified": None, "note": ""}


def test_own_arrays_in_a_folder_of_ones_own(glyphs: Dataset, tmp_path: Path) -> None:
    train, test = glyphs.train, glyphs.test
    arrays = (train.images, train.labels, test.images, test.labels)
    folder = tmp_path / "mine"
    data = Dataset.from_arrays(*arrays, classes=glyphs.classes, folder=folder)
    assert (data.folder, data.classes) == (folder, glyphs.classes)
    assert torch.equal(Dataset.from_arrays(*arrays, classes=glyphs.classes, folder=folder).test.images, test.images)

    others = (test.images, test.labels, train.images, train.labels)
    assert message(*others, folder=folder) == f"{folder} already holds another data set. Name a new folder."
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    expected = "holds thesis.tex, no part of a prepared data set. Name a new folder."
    assert message(*arrays, folder=tmp_path / "theirs") == f"{tmp_path / 'theirs'} {expected}"
    thesis = tmp_path / "theirs" / "thesis.tex"
    assert message(*arrays, folder=thesis) == f"{thesis} is a file, not a folder. Name a new folder."
    assert thesis.exists()


def test_own_arrays_that_do_not_fit(glyphs: Dataset) -> None:
    x, y = glyphs.train.images[:94].numpy(), glyphs.train.labels[:94].numpy()
    assert message(x / 255, y, x, y) == (
        "train_images has values of type float64. Convert them to uint8, from 0 to 255."
    )
    expected = "test_images has shape (94, 784). Give it the shape [n, height, width] or [n, channels, height, width]."
    assert message(x, y, x.reshape(94, 784), y) == expected
    assert message(x[:0], y[:0], x, y) == ("train_images has shape (0, 28, 28), so no pixels. Give at least one image.")
    assert message(x, y[:93], x, y) == ("train_labels has shape (93,), expected (94,). Give one label for each image.")
    assert message(x, y, x, y * 1.0) == (
        "test_labels has values of type float64. Convert them to whole numbers (int64)."
    )
    expected = "test_images has images of shape (27, 28), but train_images of (28, 28). Give both the same shape."
    assert message(x, y, x[:, :27], y) == expected
    expected = "test_labels has the label -1, expected 0 to 46. Number the classes from 0, or pass more `classes`."
    assert message(x, y, x, np.where(y == 3, -1, y)) == expected
    expected = "train_labels has the label 46, expected 0 to 9. Number the classes from 0, or pass more `classes`."
    assert message(x, y, x, y, classes=list("0123456789")) == expected
    assert message(0 * x, y, x, y) == ("train_images has the value 0 in every pixel. Give images that differ.")


def test_data_json_is_plain(glyphs: Dataset) -> None:
    description = json.loads((glyphs.folder / "data.json").read_text())
    assert description["images"] == {"train": [3760, 28, 28], "test": [1880, 28, 28]}
    assert description["limits"] == {"train": 3760, "test": 1880}
    assert description["made_from"]["seed"] == 0
