"""A prepared data set: its arrays, mapped into memory when they are first asked for."""

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
from partrain.data.arrays import ArrayLike, OwnArrays
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
        """uint8 [n, h, w] or [n, c, h, w]; processes that map the same folder share one copy in host memory.

        The mapping is copy-on-write: a change stays within this process and never reaches the file.
        """
        return torch.from_numpy(np.load(self.images_file, mmap_mode="c", allow_pickle=False))

    @cached_property
    def labels(self) -> torch.Tensor:
        """int64 [n]."""
        return torch.from_numpy(np.load(self.labels_file, allow_pickle=False).astype(np.int64))


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    mean, std: of the training images' pixels divided by 255.
    image_shape: of one image as it is stored: (h, w) or (c, h, w).
    verified: whether the files it was made from are byte for byte the publisher's; None where there are none.
    note: a sentence about that, or "".
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
        return len(self.classes)

    def provenance(self) -> dict[str, Any]:
        """Name, split, numbers of images, `verified` and `note`, as plain JSON for a run's results."""
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
        """The data set in a prepared folder; its arrays are looked at only for their size.

        Raises:
            ValueError: it is no prepared folder, or it is damaged.
        """
        folder = Path(folder)
        about = store.describe(folder)
        train, test = (
            Split(folder / f"{part}_images.npy", folder / f"{part}_labels.npy", about["images"][part][0])
            for part in ("train", "test")
        )
        return cls(
            folder=folder,
            name=about["name"],
            split=about["split"],
            classes=tuple(about["classes"]),
            train=train,
            test=test,
            mean=about["mean"],
            std=about["std"],
            image_shape=tuple(about["images"]["train"][1:]),
            verified=about["verified"],
            note=about["note"],
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
        """A user's own arrays (numpy or torch), written to `folder`, or to a folder of their own in `cache`.

        Images: uint8 [n, h, w] or [n, c, h, w]. Labels: whole numbers [n], 0 … number of classes - 1. Without `classes`
        their names are the labels themselves.

        Raises:
            ValueError: an array of the wrong type or shape, labels that do not fit, or other data in `folder`.
        """
        source = OwnArrays.checked(
            {"train": train_images, "test": test_images}, {"train": train_labels, "test": test_labels}, classes
        )
        limits: store.Limits = {"train": None, "test": None}
        target = Path(folder) if folder is not None else cache_folder(cache) / store.folder_name(source, limits)
        store.ensure(source, target, limits, show_progress=False)
        if folder is not None and store.describe(target)["made_from"] != source.identity():
            raise UserError(f"{target}: holds another data set already; name a new folder")
        return cls.open(target)
