"""IDX files, the format of MNIST and its relatives: gzip-compressed, inside a zip archive, or unpacked.

An IDX file of bytes is a magic number (0x00000800 + number of dimensions), the dimensions as big-endian 32-bit numbers,
and then the bytes themselves.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from partrain.errors import UserError

Bytes = npt.NDArray[np.uint8]

_BLOCK = 4096  # images read at a time


@dataclass(frozen=True)
class IdxFile:
    """Where an IDX file lies: at `path`, or as `member` of the zip archive at `path`. A name in .gz is compressed."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @property
    def name(self) -> str:
        """The file's own name, without a folder."""
        return (self.member or self.path.name).rsplit("/", 1)[-1]

    @property
    def compressed(self) -> bool:
        return self.name.endswith(".gz")

    @contextmanager
    def stored(self) -> Iterator[IO[bytes]]:
        """The bytes as they are stored."""
        if self.member is None:
            with self.path.open("rb") as stream:
                yield stream
        else:
            with ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream

    @contextmanager
    def unpacked(self) -> Iterator[IO[bytes]]:
        """The bytes after decompression.

        Raises:
            ValueError: while they are read, where the compressed file is truncated or damaged.
        """
        try:
            with self.stored() as stream:
                yield cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if self.compressed else stream
        except EOFError:
            raise UserError(f"{self}: the compressed file is truncated; get it again") from None
        except (gzip.BadGzipFile, BadZipFile, zlib.error) as error:
            raise UserError(f"{self}: the compressed file is damaged ({error}); get it again") from None


def read_labels(file: IdxFile) -> Bytes:
    """The labels as the file has them, uint8 [n].

    Raises:
        ValueError: not an IDX file of labels, truncated, or not as many labels as its header says.
    """
    with file.unpacked() as stream:
        (count,) = _header(stream, file, "labels", 1)
        labels = stream.read()
    if len(labels) != count:
        raise UserError(f"{file}: the header says {count} labels, but the file holds {len(labels)}; get it again")
    return np.frombuffer(labels, np.uint8)


def images_shape(file: IdxFile) -> tuple[int, int, int]:
    """Number, height and width of the images, as the header has them.

    Raises:
        ValueError: not an IDX file of images.
    """
    with file.unpacked() as stream:
        count, height, width = _header(stream, file, "images", 3)
    return count, height, width


def image_blocks(file: IdxFile) -> Iterator[Bytes]:
    """The images as the file has them, uint8 [m, height, width] at a time.

    Raises:
        ValueError: not an IDX file of images, truncated, or not as many images as its header says.
    """
    with file.unpacked() as stream:
        count, height, width = _header(stream, file, "images", 3)
        size = height * width
        for start in range(0, count, _BLOCK):
            expected = min(_BLOCK, count - start)
            pixels = stream.read(expected * size)
            if len(pixels) < expected * size:
                found = start + len(pixels) // size
                raise UserError(f"{file}: the header says {count} images, but the file holds {found}; get it again")
            yield np.frombuffer(pixels, np.uint8).reshape(expected, height, width)
        if stream.read(1):
            raise UserError(f"{file}: the header says {count} images, but the file holds more; get it again")


def _header(stream: IO[bytes], file: IdxFile, content: str, dimensions: int) -> list[int]:
    expected = 0x800 + dimensions
    magic, sizes = stream.read(4), stream.read(4 * dimensions)
    if magic != expected.to_bytes(4, "big") or len(sizes) < 4 * dimensions:
        found = f"0x{magic.hex()}" if magic else "nothing"
        raise UserError(f"{file}: not an IDX file of {content}: expected 0x{expected:08x} at its start, found {found}")
    return [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * dimensions, 4)]
