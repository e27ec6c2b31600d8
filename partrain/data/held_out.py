"""The held-out part of the training images, on which choices are made: the same for all runs on a data set."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from partrain.data.dataset import Dataset
from partrain.errors import UserError
from partrain.rng import generator


@dataclass(frozen=True)
class TrainingParts:
    """The positions [n] of training images: of those that are trained on, and of those that are held out."""

    training: Tensor
    validation: Tensor


def num_training_images(dataset: Dataset, validation: float | None) -> int:
    """Return how many training images are trained on, given the fraction that is held out."""
    return len(dataset.train) if validation is None else len(divide_training_images(dataset, validation).training)


def divide_training_images(dataset: Dataset, fraction: float) -> TrainingParts:
    """Divide the training images into a part to train on and one that is held out, both in the images' order.

    Every class gives its share, whatever the order of the images. Which ones it gives depends on the data alone, so that
    runs with different seeds hold out the same.

    Args:
        dataset: The data set.
        fraction: The fraction that is held out, 0 < fraction < 1.

    Raises:
        UserError: If a class would have no image in one of the parts.
    """
    return _divide(dataset.folder, fraction)


@lru_cache(maxsize=8)
def _divide(dataset_folder: Path, fraction: float) -> TrainingParts:
    """Divide the training images of a prepared folder; a search asks for the same division for each of its trials."""
    dataset = Dataset.open(dataset_folder)
    labels = dataset.train.labels
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    random = generator(0, "validation")
    for label, name in enumerate(dataset.classes):
        positions = (labels == label).nonzero().flatten()
        if len(positions) == 0:
            continue
        count = round(fraction * len(positions))
        if not 0 < count < len(positions):
            part = "held-out" if count == 0 else "training"
            raise UserError(
                f"data.validation={fraction} leaves no {part} image of class {name}, which has {len(positions)}; "
                f"set it to between {1 / len(positions):.3g} and {1 - 1 / len(positions):.3g}, or leave it out"
            )
        chosen = torch.randperm(len(positions), generator=random)[:count]
        is_held_out[positions[chosen]] = True
    return TrainingParts((~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten())
