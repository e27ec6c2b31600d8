"""Batches: uint8 images resident on the training device; shuffled, gathered and normalised there."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from partrain.data.dataset import Dataset, Split
from partrain.errors import UserError
from partrain.rng import generator


def normalise(images: Tensor, mean: float, std: float) -> Tensor:
    """uint8 images [n, height, width] or [n, channels, height, width] as a network takes them: fp32, channels, scaled."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    return images.float().sub_(255 * mean).mul_(1 / (255 * std))


@dataclass(frozen=True)
class Batch:
    """`indices` [batch] into the training set; `step` counts from the start of the training."""

    step: int
    indices: Tensor


def check_batch_size(name: str, batch_size: int, num_images: int) -> None:
    """Raise `ValueError` unless `num_images` make a batch."""
    if batch_size > num_images:
        raise UserError(
            f"{name}={batch_size} is larger than the training data ({num_images} images); at most {num_images}"
        )


class BatchOrder:
    """The order in which training images are visited: a new permutation each epoch, from (seed, epoch) alone.

    Images left over at an epoch's end, fewer than a batch, are passed over; other ones each epoch.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, device: torch.device) -> None:
        check_batch_size("train.batch_size", batch_size, num_images)
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_per_epoch = num_images // batch_size

    def __eq__(self, other: object) -> bool:
        """Whether both visit the same images in the same order."""
        return isinstance(other, BatchOrder) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, int, int]:
        return self.num_images, self.batch_size, self.seed

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from its batch number `first` on."""
        shuffled = torch.randperm(self.num_images, generator=generator(self.seed, "order", epoch)).to(self.device)
        for number in range(first, self.steps_per_epoch):
            indices = shuffled[number * self.batch_size : (number + 1) * self.batch_size]
            yield Batch(epoch * self.steps_per_epoch + number, indices)


class DeviceImages:
    """A split's images and labels on `device`, gathered by index; either takes memory once it is asked for."""

    def __init__(self, dataset: Dataset, split: Split, device: torch.device) -> None:
        self.mean, self.std = dataset.mean, dataset.std
        self._split, self.device = split, device

    @cached_property
    def _images(self) -> Tensor:
        return self._split.images.to(self.device)

    @cached_property
    def _labels(self) -> Tensor:
        return self._split.labels.to(self.device)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [batch, channels, height, width] and their labels [batch]."""
        return normalise(self._images.index_select(0, indices), self.mean, self.std), self.gather_labels(indices)

    def gather_labels(self, indices: Tensor) -> Tensor:
        """The labels [batch] alone."""
        return self._labels.index_select(0, indices)


@lru_cache(maxsize=8)  # a process that goes through many data sets does not keep them all
def _shared(dataset_folder: Path, device: torch.device) -> DeviceImages:
    dataset = Dataset.open(dataset_folder)
    return DeviceImages(dataset, dataset.train, device)


def shared_training_images(dataset: Dataset, device: torch.device) -> DeviceImages:
    """The training images on `device`: once in a process, however many trainings it has."""
    return _shared(dataset.folder, device)
