"""A prepared data set, whose arrays are mapped into memory when they are first used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partrain.data import store
from partrain.data.arrays import ArrayLike, ArraySource
from partrain.data.settings import cache_folder
from partrain.errors import UserError


@dataclass(frozen=True)
class Split:
    """The training or the test images of a prepared folder. Neither file is opened before its property is used."""

    images_file: Path
    labels_file: Path
    num_images: int

    def __len__(self) -> int:
        return self.num_images

    @cached_property
    def images(self) -> torch.Tensor:
        """Map the images: uint8 [n, height, width] or [n, channels, height, width].

        Processes that map the same file share one copy in host memory. The mapping is copy-on-write: a change stays
        within this process and never reaches the file.
        """
        return torch.from_numpy(np.load(self.images_file, mmap_mode="c", allow_pickle=False))

    @cached_property
    def labels(self) -> torch.Tensor:
        """Read the labels: int64 [n]."""
        return torch.from_numpy(np.load(self.labels_file, allow_pickle=False).astype(np.int64))


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: training and test images, in a folder of memory-mapped arrays.

    Attributes:
        folder: Folder of the prepared arrays.
        name: Name of the data set, such as "emnist", or "arrays" for a user's own.
        split: EMNIST's split, such as "balanced", or None for other data sets.
        classes: Names of the labels 0, 1, …, in this order.
        train: Training images and their labels.
        test: Test images and their labels.
        mean: Mean of the training images' pixels, divided by 255.
        std: Standard deviation of the training images' pixels, divided by 255.
        image_shape: Shape of one image as it is stored: (height, width) or (channels, height, width).
        verified: Whether the original files are byte for byte the publisher's, or None where there are none.
        note: A clause about what differs from the publisher's files, or an empty text.
    """

    folder: Path
    name: str
    split: str | None
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: float
    std: float
    image_shape: tuple[int, ...]
    verified: bool | None
    note: str

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    def provenance(self) -> dict[str, Any]:
        """Return name, split, numbers of images, `verified` and `note`, as plain JSON for a run's results."""
        return {
            "name": self.name,
            "split": self.split,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "verified": self.verified,
            "note": self.note,
        }

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Return the data set in a prepared folder. Of its arrays only the sizes of the files are checked.

        Raises:
            UserError: If the folder is damaged, or is no prepared folder.
        """
        folder = Path(folder)
        description = store.read_description(folder)
        train, test = (
            Split(folder / f"{part}_images.npy", folder / f"{part}_labels.npy", description["images"][part][0])
            for part in ("train", "test")
        )
        return cls(
            folder=folder,
            name=description["name"],
            split=description["split"],
            classes=tuple(description["classes"]),
            train=train,
            test=test,
            mean=description["mean"],
            std=description["std"],
            image_shape=tuple(description["images"]["train"][1:]),
            verified=description["verified"],
            note=description["note"],
        )

    @classmethod
    def from_arrays(
        cls,
        train_images: ArrayLike,
        train_labels: ArrayLike,
        test_images: ArrayLike,
        test_labels: ArrayLike,
        classes: Sequence[str] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Dataset:
        """Write a user's own arrays (numpy or torch) to a prepared folder, and return the data set.

        Args:
            train_images: uint8 [n, height, width] or [n, channels, height, width].
            train_labels: Whole numbers [n], from 0 to the number of classes - 1.
            test_images: Images of the same shape as the training images.
            test_labels: Labels of the same classes.
            classes: Names of the labels 0, 1, …; by default the labels themselves.
            folder: Folder to write to; by default one in the cache, named after the arrays' contents.
            cache: Folder of prepared arrays; by default $PARTRAIN_CACHE, or else the user's cache folder.

        Raises:
            UserError: If an array has the wrong type or shape, labels do not fit, or `folder` holds other data.
        """
        source = ArraySource.from_arrays(
            {"train": train_images, "test": test_images}, {"train": train_labels, "test": test_labels}, classes
        )
        limits: store.Limits = {"train": None, "test": None}
        target = Path(folder) if folder is not None else cache_folder(cache) / store.folder_name(source, limits)
        store.ensure_prepared(source, target, limits, show_progress=False)
        if folder is not None and store.read_description(target)["made_from"] != source.identity():
            raise UserError(f"{target} already holds another data set. Name a new folder.")
        return cls.open(target)
