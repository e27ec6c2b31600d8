"""A user's own arrays as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from partrain.data.source import PARTS, Part, PartName
from partrain.errors import UserError

ArrayLike = npt.NDArray[Any] | torch.Tensor

_BLOCK = 4096  # images handed on at a time


@dataclass(frozen=True)
class OwnArrays:
    """The source of arrays given by the user; see `Dataset.from_arrays`."""

    images: dict[PartName, npt.NDArray[np.uint8]]
    labels: dict[PartName, npt.NDArray[np.integer[Any]]]
    classes: tuple[str, ...]
    name: str = field(default="arrays", init=False)
    split: None = field(default=None, init=False)

    @classmethod
    def checked(
        cls,
        images: dict[PartName, ArrayLike],
        labels: dict[PartName, ArrayLike],
        classes: Sequence[str] | None,
    ) -> OwnArrays:
        """The arrays as they are, or as numpy sees them.

        Raises:
            ValueError: an array of the wrong type or shape, or labels that do not fit the images or the classes.
        """
        own_images = {part: _images(f"{part}_images", images[part]) for part in PARTS}
        own_labels = {part: _labels(f"{part}_labels", labels[part], own_images[part]) for part in PARTS}
        shape, test_shape = (own_images[part].shape[1:] for part in PARTS)
        if shape != test_shape:
            raise UserError(f"test_images: images of shape {test_shape}, expected {shape} as in train_images")
        if own_images["train"].min() == (value := own_images["train"].max()):
            raise UserError(f"train_images: every pixel is {value}; expected images that differ")
        if classes is None:
            classes = [str(label) for label in range(1 + max(int(array.max()) for array in own_labels.values()))]
        for part, array in own_labels.items():
            if array.min() < 0 or array.max() >= len(classes):
                label = array.min() if array.min() < 0 else array.max()
                raise UserError(f"{part}_labels: label {label}, expected 0 to {len(classes) - 1}, one for each class")
        return cls(own_images, own_labels, tuple(classes))

    def identity(self) -> dict[str, Any]:
        """The classes, and the hash of every array."""
        arrays = {f"{part}_images": self.images[part] for part in PARTS} | {
            f"{part}_labels": self.labels[part].astype(np.int64) for part in PARTS
        }
        return {"classes": list(self.classes)} | {name: _hash(array) for name, array in arrays.items()}

    def part(self, part: PartName) -> Part:
        images = self.images[part]
        return Part(self.labels[part], images.shape[1:], _blocks(images))

    def verification(self) -> tuple[bool | None, str]:
        """Not applicable: the arrays are the user's own."""
        return None, ""


def _images(name: str, array: ArrayLike) -> npt.NDArray[np.uint8]:
    images = np.asarray(array)
    if images.dtype != np.uint8:
        raise UserError(f"{name}: values of type {images.dtype}, expected uint8 from 0 to 255")
    if images.ndim not in (3, 4):
        raise UserError(f"{name}: shape {images.shape}, expected [n, height, width] or [n, channels, height, width]")
    if images.size == 0:
        raise UserError(f"{name}: shape {images.shape} holds no pixels")
    return images


def _labels(name: str, array: ArrayLike, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.integer[Any]]:
    labels = np.asarray(array)
    if labels.dtype.kind not in "iu":
        raise UserError(f"{name}: values of type {labels.dtype}, expected whole numbers (int64)")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{name}: shape {labels.shape}, expected ({len(images)},), one label for each image")
    return labels


def _hash(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def _blocks(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(images), _BLOCK):
        yield images[start : start + _BLOCK]
