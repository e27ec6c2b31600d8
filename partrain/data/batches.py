"""Batches of images that live on the training device, where they are shuffled, gathered and normalised.

PyTorch's `DataLoader` collates images one by one on the host, which takes longer than a step of a small network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from partrain.data.dataset import Dataset, Split
from partrain.data.held_out import divide_training_images
from partrain.errors import UserError
from partrain.rng import generator

_MAX_DATA_SETS = 8  # Training sets that stay on the device. A process with more of them drops the least recently used.


def normalise(images: Tensor, mean: float, std: float) -> Tensor:
    """Convert stored images to a network's input, with the mean and the standard deviation of the training images.

    Args:
        images: uint8 [n, height, width] or [n, channels, height, width].
        mean: Mean of the training images' pixels, divided by 255.
        std: Standard deviation of the training images' pixels, divided by 255.

    Returns:
        float32 [n, channels, height, width].
    """
    if images.ndim == 3:
        images = images.unsqueeze(1)
    return images.float().sub_(255 * mean).mul_(1 / (255 * std))


def check_batch_size(name: str, batch_size: int, num_images: int) -> None:
    """Raise `UserError` if `num_images` do not make one batch. `name` is the setting that holds the batch size."""
    if batch_size > num_images:
        raise UserError(
            f"{name}={batch_size} is larger than the training set of {num_images} images. Set it to {num_images} or less."
        )


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        step: Number of the step, counted from the start of the training.
        indices: Positions [batch] of the images in the training set.
    """

    step: int
    indices: Tensor


class BatchOrder:
    """The order in which batches visit the training images: a new permutation each epoch, from (seed, epoch) alone.

    Fewer images than a batch can remain at an epoch's end. They are skipped, and differ from epoch to epoch.

    Args:
        num_images: Number of training images.
        batch_size: Images per batch.
        seed: Seed of the training.
        device: Device that the indices are moved to.

    Attributes:
        steps_per_epoch: Number of whole batches in an epoch.

    Raises:
        UserError: If a batch is larger than the training set.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, device: torch.device) -> None:
        check_batch_size("train.batch_size", batch_size, num_images)
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_per_epoch = num_images // batch_size

    def __eq__(self, other: object) -> bool:
        """Return whether both visit the same images in the same order."""
        return isinstance(other, BatchOrder) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, int, int]:
        return self.num_images, self.batch_size, self.seed

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch`, both counted from 0, from batch number `first` on."""
        shuffled = torch.randperm(self.num_images, generator=generator(self.seed, "order", epoch)).to(self.device)
        for number in range(first, self.steps_per_epoch):
            indices = shuffled[number * self.batch_size : (number + 1) * self.batch_size]
            yield Batch(epoch * self.steps_per_epoch + number, indices)


class DeviceImages:
    """The images and labels of a split on a device, gathered by index.

    Images and labels each take memory there once they are first gathered.

    Args:
        dataset: Data set whose mean and standard deviation normalise the images.
        split: Its training or its test images.
        device: Device that holds them.
    """

    def __init__(self, dataset: Dataset, split: Split, device: torch.device) -> None:
        self.mean, self.std = dataset.mean, dataset.std
        self._split, self.device = split, device

    def __len__(self) -> int:
        return len(self._split)

    @cached_property
    def _images(self) -> Tensor:
        return self._split.images.to(self.device)

    @cached_property
    def _labels(self) -> Tensor:
        return self._split.labels.to(self.device)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images [batch, channels, height, width] and their labels [batch]."""
        return normalise(self._images.index_select(0, indices), self.mean, self.std), self.gather_labels(indices)

    def gather_labels(self, indices: Tensor) -> Tensor:
        """Return the labels [batch] alone."""
        return self._labels.index_select(0, indices)


class SelectedImages:
    """Some of the images of a split on a device, which are gathered by their position among these.

    Args:
        images: All images of the split.
        positions: Positions [n] of those that are selected, in the split.
    """

    def __init__(self, images: DeviceImages, positions: Tensor) -> None:
        self._images, self._positions = images, positions.to(images.device)
        self.device = images.device

    def __len__(self) -> int:
        return len(self._positions)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images [batch, channels, height, width] and their labels [batch]."""
        return self._images.gather(self._positions.index_select(0, indices))

    def gather_labels(self, indices: Tensor) -> Tensor:
        """Return the labels [batch] alone."""
        return self._images.gather_labels(self._positions.index_select(0, indices))


def training_images(dataset: Dataset, device: torch.device, validation: float | None) -> DeviceImages | SelectedImages:
    """Return the images to train on, on `device`, where all trainings of this process share one copy.

    Args:
        dataset: The data set.
        device: The device that holds them.
        validation: The fraction of the training images that is held out, or None for none.
    """
    if validation is None:
        return _load_training_images(dataset.folder, device)
    return _select_training_images(dataset.folder, device, validation)


def training_labels(dataset: Dataset, validation: float | None) -> Tensor:
    """Return the labels [n] of the images to train on, on the CPU; see `training_images`."""
    labels = dataset.train.labels
    return labels if validation is None else labels[divide_training_images(dataset, validation).training]


def validation_images(dataset: Dataset, device: torch.device, validation: float) -> SelectedImages:
    """Return the images that are held out; see `training_images`."""
    images = _load_training_images(dataset.folder, device)
    return SelectedImages(images, divide_training_images(dataset, validation).validation)


@lru_cache(maxsize=_MAX_DATA_SETS)
def _select_training_images(dataset_folder: Path, device: torch.device, validation: float) -> SelectedImages:
    positions = divide_training_images(Dataset.open(dataset_folder), validation).training
    return SelectedImages(_load_training_images(dataset_folder, device), positions)


@lru_cache(maxsize=_MAX_DATA_SETS)
def _load_training_images(dataset_folder: Path, device: torch.device) -> DeviceImages:
    dataset = Dataset.open(dataset_folder)
    return DeviceImages(dataset, dataset.train, device)
