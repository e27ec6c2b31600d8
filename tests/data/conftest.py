"""Fixtures for data sets: drawn characters, also as files in the formats of EMNIST and MNIST."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from partrain.data import Dataset, prepare_data
from partrain.data.settings import Glyphs

Bytes = npt.NDArray[np.uint8]
WriteIdx = Callable[[Path, Bytes], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache of its own, and return its folder."""
    monkeypatch.setenv("PARTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return two chunks of drawn training images and one of test images, made once for all tests."""
    folder = str(tmp_path_factory.mktemp("glyphs"))
    return prepare_data(Glyphs(cache=folder, limit_train=3760, limit_test=1880), show_progress=False)


def to_idx(array: Bytes) -> bytes:
    """Return the bytes of an unpacked IDX file."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


@pytest.fixture(scope="session")
def write_idx() -> WriteIdx:
    """Return a function that writes an array as an IDX file, compressed if its name ends in .gz."""

    def write(file: Path, array: Bytes) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = to_idx(array)
        file.write_bytes(gzip.compress(content, compresslevel=1, mtime=0) if file.suffix == ".gz" else content)
        return file

    return write


@pytest.fixture
def balanced(tmp_path: Path, glyphs: Dataset, write_idx: WriteIdx) -> Path:
    """Return a root with the drawn characters as compressed files of EMNIST Balanced, transposed as NIST's are."""
    raw = tmp_path / "root" / "EMNIST" / "raw"
    for part, split in (("train", glyphs.train), ("test", glyphs.test)):
        images, labels = split.images.transpose(1, 2).contiguous().numpy(), split.labels.numpy().astype(np.uint8)
        write_idx(raw / f"emnist-balanced-{part}-images-idx3-ubyte.gz", images)
        write_idx(raw / f"emnist-balanced-{part}-labels-idx1-ubyte.gz", labels)
    return tmp_path / "root"


@pytest.fixture
def mnist(tmp_path: Path, glyphs: Dataset, write_idx: WriteIdx) -> Path:
    """Return a root with the drawn digits as unpacked files of MNIST."""
    raw = tmp_path / "root" / "MNIST" / "raw"
    for part, split in (("train", glyphs.train), ("t10k", glyphs.test)):
        digits = split.labels < 10
        write_idx(raw / f"{part}-images-idx3-ubyte", split.images[digits].numpy())
        write_idx(raw / f"{part}-labels-idx1-ubyte", split.labels[digits].numpy().astype(np.uint8))
    return tmp_path / "root"
