"""Tests of the held-out part of the training images: stratified, the same for all runs, and never trained on."""

import numpy as np
import pytest
import torch

from partrain.data import Dataset
from partrain.data.batches import training_images, training_labels, validation_images
from partrain.data.held_out import divide_training_images
from partrain.errors import UserError


@pytest.fixture(scope="module")
def sorted_by_class(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 training images whose pixels encode their index, 10, 20 and 30 of three classes, sorted by class."""
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None], (60, 4, 4)).copy()
    return Dataset.from_arrays(
        images, labels, images[:3], labels[[0, 10, 30]], folder=tmp_path_factory.mktemp("d") / "d"
    )


def test_every_class_gives_its_share_whatever_the_order(sorted_by_class: Dataset) -> None:
    parts = divide_training_images(sorted_by_class, 0.2)
    labels = sorted_by_class.train.labels
    assert labels[parts.validation].bincount().tolist() == [2, 4, 6]
    assert labels[parts.training].bincount().tolist() == [8, 16, 24]
    both = torch.cat((parts.training, parts.validation))
    assert sorted(both.tolist()) == list(range(60))
    assert parts.validation.tolist() != list(range(48, 60))
    again = divide_training_images(sorted_by_class, 0.2)
    assert torch.equal(again.validation, parts.validation)


def test_images_are_gathered_by_their_position_in_the_part(sorted_by_class: Dataset) -> None:
    device = torch.device("cpu")
    parts = divide_training_images(sorted_by_class, 0.2)
    whole = training_images(sorted_by_class, device, None)
    for images, positions in (
        (training_images(sorted_by_class, device, 0.2), parts.training),
        (validation_images(sorted_by_class, device, 0.2), parts.validation),
    ):
        every = torch.arange(len(images))
        assert len(images) == len(positions)
        for ours, theirs in zip(images.gather(every), whole.gather(positions), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(images.gather_labels(every), sorted_by_class.train.labels[positions])
    assert torch.equal(training_labels(sorted_by_class, 0.2), sorted_by_class.train.labels[parts.training])


@pytest.mark.parametrize(
    ("fraction", "part", "name", "count"), [(0.01, "held-out", "0", 10), (0.99, "training", "0", 10)]
)
def test_a_class_without_an_image_in_a_part_is_refused(
    sorted_by_class: Dataset, fraction: float, part: str, name: str, count: int
) -> None:
    with pytest.raises(UserError) as caught:
        divide_training_images(sorted_by_class, fraction)
    assert str(caught.value) == (
        f"data.validation={fraction} leaves no {part} image of class {name}, which has {count}; "
        "set it to between 0.1 and 0.9, or leave it out"
    )
