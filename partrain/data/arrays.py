"""A source of images and labels that the user passes as arrays, checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from partrain.data.source import PARTS, PartName, SourcePart, UInt8Array, Verification
from partrain.errors import UserError

ArrayLike = npt.NDArray[Any] | torch.Tensor
IntegerArray = npt.NDArray[np.integer[Any]]

_BLOCK = 4096  # images per block


@dataclass(frozen=True)
class ArraySource:
    """The source of arrays passed by the user; see `Dataset.from_arrays`."""

    images: dict[PartName, UInt8Array]
    labels: dict[PartName, IntegerArray]
    classes: tuple[str, ...]
    name: str = field(default="arrays", init=False)
    split: None = field(default=None, init=False)

    @classmethod
    def from_arrays(
        cls,
        images: Mapping[PartName, ArrayLike],
        labels: Mapping[PartName, ArrayLike],
        classes: Sequence[str] | None,
    ) -> ArraySource:
        """Check the arrays and return their source, without copying those that numpy can use as they are.

        Args:
            images: uint8 arrays [n, height, width] or [n, channels, height, width], by part.
            labels: Whole numbers [n], by part.
            classes: Names of the labels 0, 1, …; by default the labels themselves.

        Raises:
            UserError: If an array has the wrong type or shape, or labels do not fit the images or the classes.
        """
        pixels = {part: _checked_images(f"{part}_images", images[part]) for part in PARTS}
        numbers = {part: _checked_labels(f"{part}_labels", labels[part], pixels[part]) for part in PARTS}
        _check_equal_shapes(pixels)
        _check_not_constant(pixels["train"])
        if classes is None:
            classes = _numbered_classes(numbers)
        for part, array in numbers.items():
            _check_label_range(f"{part}_labels", array, len(classes))
        return cls(pixels, numbers, tuple(classes))

    def identity(self) -> dict[str, Any]:
        """Return the classes and the hash of every array."""
        arrays = {f"{part}_images": self.images[part] for part in PARTS} | {
            f"{part}_labels": self.labels[part].astype(np.int64) for part in PARTS
        }
        return {"classes": list(self.classes)} | {name: _sha256(array) for name, array in arrays.items()}

    def open_part(self, part: PartName) -> SourcePart:
        """Return the training or the test images, in blocks that are views of the user's array."""
        images = self.images[part]
        return SourcePart(self.labels[part], images.shape[1:], _split_into_blocks(images))

    def verify(self) -> Verification:
        """Return an empty result, since the user's arrays have no publisher."""
        return Verification(is_verified=None, note="")


# ---- Checks. `name` is the argument of `Dataset.from_arrays`, for messages.


def _checked_images(name: str, array: ArrayLike) -> UInt8Array:
    images = np.asarray(array)
    if images.dtype != np.uint8:
        raise UserError(f"{name} has values of type {images.dtype}. Convert them to uint8, from 0 to 255.")
    if images.ndim not in (3, 4):
        raise UserError(
            f"{name} has shape {images.shape}. Give it the shape [n, height, width] or [n, channels, height, width]."
        )
    if images.size == 0:
        raise UserError(f"{name} has shape {images.shape}, so no pixels. Give at least one image.")
    return images


def _checked_labels(name: str, array: ArrayLike, images: UInt8Array) -> IntegerArray:
    labels = np.asarray(array)
    if labels.dtype.kind not in "iu":
        raise UserError(f"{name} has values of type {labels.dtype}. Convert them to whole numbers (int64).")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{name} has shape {labels.shape}, expected ({len(images)},). Give one label for each image.")
    return labels


def _check_equal_shapes(images: Mapping[PartName, UInt8Array]) -> None:
    expected, shape = images["train"].shape[1:], images["test"].shape[1:]
    if shape != expected:
        raise UserError(
            f"test_images has images of shape {shape}, but train_images of {expected}. Give both the same shape."
        )


def _check_not_constant(images: UInt8Array) -> None:
    """Raise `UserError` if all pixels are equal: their standard deviation is 0, so they cannot be normalised."""
    value = images.max()
    if images.min() == value:
        raise UserError(f"train_images has the value {value} in every pixel. Give images that differ.")


def _check_label_range(name: str, labels: IntegerArray, num_classes: int) -> None:
    if labels.min() >= 0 and labels.max() < num_classes:
        return
    label = labels.min() if labels.min() < 0 else labels.max()
    raise UserError(
        f"{name} has the label {label}, expected 0 to {num_classes - 1}. Number the classes from 0, or pass more `classes`."
    )


def _numbered_classes(labels: Mapping[PartName, IntegerArray]) -> list[str]:
    """Return the labels 0, 1, …, up to the largest, as names of classes."""
    largest = max(int(array.max()) for array in labels.values())
    return [str(label) for label in range(largest + 1)]


# ---- Hashes and blocks.


def _sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def _split_into_blocks(images: UInt8Array) -> Iterator[UInt8Array]:
    for start in range(0, len(images), _BLOCK):
        yield images[start : start + _BLOCK]
