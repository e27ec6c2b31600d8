"""Tests of data.validation: what is held out is never trained on, by any way to train, and is evaluated at the end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripting import small_settings

import partrain
from partrain import (
    Alone,
    CustomNetwork,
    DataParallel,
    Dataset,
    Glyphs,
    Inline,
    Parallel,
    PartitionSettings,
    SearchSettings,
    Sequential,
    TrainSettings,
)
from partrain.data.held_out import divide_training_images
from partrain.errors import UserError

TRAIN = TrainSettings(epochs=2, batch_size=10, precision="fp32", early_stop=0)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """200 training images of five classes, sorted by class, whose pixels encode their index."""
    labels = np.arange(200) // 40
    images = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 4, 4)).copy()
    folder = tmp_path_factory.mktemp("numbered") / "data"
    return Dataset.from_arrays(images, labels, images[::20], labels[::20], folder=folder)


def settings_of(file: Path, **changed: Any) -> partrain.RunSettings:
    values = {
        "data": Glyphs(validation=0.25),
        "network": CustomNetwork(name="own_networks:recording", options={"file": str(file)}),
        "train": TRAIN,
    }
    return small_settings(**values | changed)


def trained_on(file: Path, data: Dataset) -> set[int]:
    """Return the indices of the images whose pixels are in `file`."""
    pixels = torch.tensor([float(line) for line in file.read_text().splitlines()])
    return set((pixels * 255 * data.std + 255 * data.mean).round().int().tolist())


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": Parallel(recovery_epochs=1, recovery_batch_size=10)},
        {"schedule": Sequential(last_input="stored", recovery_epochs=1, recovery_batch_size=10)},
        {"partition": PartitionSettings(segments=1), "launch": Inline(device="cpu", threads=1)},
        {"strategy": DataParallel()},
    ],
)
def test_no_held_out_image_is_trained_on(changed: dict[str, Any], numbered: Dataset, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "seen", **changed)
    results = partrain.run(settings, tmp_path / "run", dataset=numbered, show_progress=False)
    parts = divide_training_images(numbered, 0.25)
    assert trained_on(tmp_path / "seen", numbered) == set(parts.training.tolist())
    held_out = partrain.evaluate(tmp_path / "run", numbered, validation=0.25)
    assert (results["validation_accuracy"], results["validation_loss"]) == (held_out.top1, held_out.loss)
    tested = partrain.evaluate(tmp_path / "run", numbered)
    assert (results["test_accuracy"], results["test_loss"]) == (tested.top1, tested.loss)
    assert len(held_out.outcomes) == 50


def test_a_search_holds_out_the_same_images(numbered: Dataset, tmp_path: Path) -> None:
    shared = settings_of(tmp_path / "seen", partition=PartitionSettings(segments=1), grouping=Alone())
    settings = SearchSettings(method="grid", space=["seed=choice(0,1)"])
    results = partrain.search(shared, settings, tmp_path / "search", numbered, show_progress=False)
    parts = divide_training_images(numbered, 0.25)
    assert trained_on(tmp_path / "seen", numbered) == set(parts.training.tolist())
    winner = partrain.evaluate(
        tmp_path / f"search/configurations/{results['best']['index']}", numbered, validation=0.25
    )
    assert results["best"]["score"] == winner.top1


def test_without_a_held_out_part_all_images_are_trained_on(numbered: Dataset, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "seen", data=Glyphs(), partition=PartitionSettings(segments=1))
    results = partrain.run(settings, tmp_path / "run", dataset=numbered, show_progress=False)
    assert trained_on(tmp_path / "seen", numbered) == set(range(200))
    assert (results["validation_accuracy"], results["validation_loss"]) == (None, None)


def test_a_part_that_leaves_fewer_images_than_a_batch_is_refused(numbered: Dataset, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "seen", train=TrainSettings(epochs=1, batch_size=151))
    with pytest.raises(UserError) as caught:
        partrain.run(settings, tmp_path / "run", dataset=numbered)
    assert str(caught.value) == (
        "train.batch_size=151 is larger than the training set of 150 images. Set it to 150 or less."
    )


def test_a_search_without_a_held_out_part_is_refused(numbered: Dataset, tmp_path: Path) -> None:
    shared = settings_of(tmp_path / "seen", data=Glyphs())
    with pytest.raises(UserError) as caught:
        partrain.search(shared, SearchSettings(space=["seed=choice(0,1)"]), tmp_path / "search", numbered)
    assert str(caught.value) == "a search scores trials on held-out images; set data.validation, such as to 0.1"
