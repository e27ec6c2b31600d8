"""A reader of IDX files, the format of MNIST and its relatives: compressed by gzip, inside a zip archive, or unpacked.

An IDX file of bytes starts with a magic number, 0x00000800 + the number of dimensions. The dimensions follow as
big-endian 32-bit numbers, and then the bytes themselves. torchvision reads such files only whole and only by its own
names.
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

from partrain.data.source import UInt8Array
from partrain.errors import UserError

_BLOCK = 4096  # images that are read at a time
_GET_AGAIN = "Get the file again."


@dataclass(frozen=True)
class IdxFile:
    """An IDX file at `path`, or as `member` of the zip archive at `path`. A name in .gz means that it is compressed."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @property
    def name(self) -> str:
        """Return the file's own name, without a folder."""
        return (self.member or self.path.name).rsplit("/", 1)[-1]

    @property
    def is_compressed(self) -> bool:
        """Return whether the file is compressed by gzip."""
        return self.name.endswith(".gz")

    @contextmanager
    def open_stored(self) -> Iterator[IO[bytes]]:
        """Open the file for reading its bytes as they are stored."""
        if self.member is None:
            with self.path.open("rb") as stream:
                yield stream
        else:
            with ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream

    @contextmanager
    def open_unpacked(self) -> Iterator[IO[bytes]]:
        """Open the file for reading its bytes after decompression.

        Raises:
            UserError: If the compressed file is truncated or damaged. This is noticed only while it is read.
        """
        try:
            with self.open_stored() as stream:
                yield cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if self.is_compressed else stream
        except EOFError:
            raise UserError(f"{self} is truncated: the compressed data end too early. {_GET_AGAIN}") from None
        except (gzip.BadGzipFile, BadZipFile, zlib.error) as error:
            raise UserError(f"{self} is damaged: it cannot be decompressed ({error}). {_GET_AGAIN}") from None


def read_labels(file: IdxFile) -> UInt8Array:
    """Return the labels as the file has them: uint8 [n].

    Raises:
        UserError: If this is no IDX file of labels, or it is truncated, or holds another number than its header gives.
    """
    with file.open_unpacked() as stream:
        (count,) = _read_header(stream, file, "labels", 1)
        labels = stream.read()
    if len(labels) != count:
        raise _wrong_count_error(file, "labels", count, str(len(labels)))
    return np.frombuffer(labels, np.uint8)


def read_images_shape(file: IdxFile) -> tuple[int, int, int]:
    """Return the number, height and width of the images, from the file's header.

    Raises:
        UserError: If this is no IDX file of images.
    """
    with file.open_unpacked() as stream:
        count, height, width = _read_header(stream, file, "images", 3)
    return count, height, width


def read_image_blocks(file: IdxFile) -> Iterator[UInt8Array]:
    """Yield the images as the file has them: uint8 [m, height, width] at a time.

    Raises:
        UserError: If this is no IDX file of images, or it is truncated, or holds another number than its header gives.
    """
    with file.open_unpacked() as stream:
        count, height, width = _read_header(stream, file, "images", 3)
        size = height * width
        for start in range(0, count, _BLOCK):
            expected = min(_BLOCK, count - start)
            pixels = stream.read(expected * size)
            if len(pixels) < expected * size:
                raise _wrong_count_error(file, "images", count, str(start + len(pixels) // size))
            yield np.frombuffer(pixels, np.uint8).reshape(expected, height, width)
        if stream.read(1):
            raise _wrong_count_error(file, "images", count, "more")


def _read_header(stream: IO[bytes], file: IdxFile, content: str, num_dimensions: int) -> list[int]:
    """Read the dimensions at the start of an IDX file of `content`, in the plural."""
    expected = 0x800 + num_dimensions
    magic, sizes = stream.read(4), stream.read(4 * num_dimensions)
    if magic != expected.to_bytes(4, "big") or len(sizes) < 4 * num_dimensions:
        start = f"0x{magic.hex()}" if magic else "nothing"
        raise UserError(
            f"{file} is not an IDX file of {content}: it starts with {start}, expected 0x{expected:08x}. {_GET_AGAIN}"
        )
    return [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * num_dimensions, 4)]


def _wrong_count_error(file: IdxFile, content: str, announced: int, actual: str) -> UserError:
    return UserError(f"{file} is damaged: its header gives {announced} {content}, but it holds {actual}. {_GET_AGAIN}")
