"""The interface of a data set before it is prepared: labels at hand, images in blocks that are made on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from partrain.errors import UserError

PartName = Literal["train", "test"]
PARTS: tuple[PartName, PartName] = ("train", "test")

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SourcePart:
    """The training or the test images of a source, with their labels.

    Attributes:
        labels: Whole numbers [n], from 0.
        image_shape: Shape of one image: (height, width) or (channels, height, width).
        blocks: Arrays [m, *image_shape] of n images in all. Each is made or read when it is asked for.
    """

    labels: npt.NDArray[np.integer[Any]]
    image_shape: tuple[int, ...]
    blocks: Iterable[UInt8Array]

    def take_first(self, limit: int | None, setting: str) -> SourcePart:
        """Return a part with the first `limit` images alone. Blocks after them are never made or read.

        Args:
            limit: Number of images, or None for all.
            setting: Name of the setting that holds the limit, for the message.

        Raises:
            UserError: If there are fewer images than `limit`.
        """
        if limit is None:
            return self
        if limit > len(self.labels):
            raise UserError(
                f"{setting}={limit} is larger than the data set of {len(self.labels)} images. Leave it out to use them all."
            )
        return SourcePart(self.labels[:limit], self.image_shape, _take_images(self.blocks, limit))


def _take_images(blocks: Iterable[UInt8Array], count: int) -> Iterator[UInt8Array]:
    """Yield blocks with the first `count` images."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


@dataclass(frozen=True)
class Verification:
    """The result of comparing a data set's files with the publisher's.

    Attributes:
        is_verified: Whether all files hold the publisher's bytes, or None where there are no files.
        note: A clause about what differs, for reports, or an empty text.
    """

    is_verified: bool | None
    note: str


class Source(Protocol):
    """A data set that can be prepared."""

    @property
    def name(self) -> str:
        """Return the name of the data set, the first part of its prepared folder's name."""
        ...

    @property
    def split(self) -> str | None:
        """Return which of the publisher's variants this is, such as EMNIST's "balanced", or None without any."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the labels 0, 1, …, in this order."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return everything that the arrays depend on, as plain JSON. Equal identities make equal arrays."""
        ...

    def open_part(self, part: PartName) -> SourcePart:
        """Return the training or the test images with their labels.

        Raises:
            UserError: If a file holds something else than this data set. The message names the file.
        """
        ...

    def verify(self) -> Verification:
        """Compare the files with the publisher's, byte for byte."""
        ...
