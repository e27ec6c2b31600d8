"""What every data set looks like before it is prepared: labels at hand, images in blocks, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from partrain.errors import UserError

PartName = Literal["train", "test"]
PARTS: tuple[PartName, PartName] = ("train", "test")


@dataclass(frozen=True)
class Part:
    """The training or the test images.

    labels: whole numbers [n], from 0.
    image_shape: of one image: (height, width) or (channels, height, width).
    blocks: uint8 arrays [m, *image_shape], n images in all; made or read as they are asked for.
    """

    labels: npt.NDArray[np.integer[Any]]
    image_shape: tuple[int, ...]
    blocks: Iterable[npt.NDArray[np.uint8]]

    def first(self, limit: int | None, setting: str) -> Part:
        """The first `limit` images alone (None: all); blocks after them are never asked for.

        Raises:
            ValueError: there are fewer images than that; the message names `setting`.
        """
        if limit is None:
            return self
        if limit > len(self.labels):
            raise UserError(f"{setting}={limit}: there are only {len(self.labels)} images; leave it out for all")
        return Part(self.labels[:limit], self.image_shape, _first(self.blocks, limit))


class Source(Protocol):
    """A data set that can be prepared."""

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str | None: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, …"""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything the arrays depend on, as plain JSON: equal identities make equal arrays."""
        ...

    def part(self, part: PartName) -> Part:
        """The training or the test images.

        Raises:
            ValueError: the files hold something else than this data set; the message names the file.
        """
        ...

    def verification(self) -> tuple[bool | None, str]:
        """Whether the files are byte for byte the publisher's (None: there are none), and a sentence where not."""
        ...


def _first(blocks: Iterable[npt.NDArray[np.uint8]], count: int) -> Iterator[npt.NDArray[np.uint8]]:
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return
