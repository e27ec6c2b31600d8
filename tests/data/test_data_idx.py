"""IDX files that are damaged or hold something else: the message names the file, the finding and the remedy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from partrain.data import Dataset, prepare_data
from partrain.data.idx import IdxFile, read_image_blocks, read_images_shape, read_labels
from partrain.data.settings import EMNIST
from partrain.errors import UserError

IMAGES = "emnist-balanced-train-images-idx3-ubyte.gz"
LABELS = "emnist-balanced-train-labels-idx1-ubyte.gz"


@pytest.fixture
def raw(balanced: Path) -> Path:
    """Return the folder of the files of EMNIST Balanced."""
    return balanced / "EMNIST" / "raw"


def message(raw: Path, **settings: object) -> str:
    """Return the message of `prepare_data` about the files in `raw`."""
    root = str(raw.parent.parent)
    with pytest.raises(UserError) as raised:
        prepare_data(EMNIST(root=root, download=False, **settings), show_progress=False)  # type: ignore[arg-type]
    return str(raised.value)


def rewrite(file: Path, change: Callable[[bytes], bytes]) -> Path:
    """Replace a compressed file's content by what `change` makes of it."""
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes())), compresslevel=1))
    return file


def test_blocks_make_up_the_whole_file(tmp_path: Path, glyphs: Dataset, write_idx: Callable[..., Path]) -> None:
    for name in ("images-idx3-ubyte", "images-idx3-ubyte.gz"):
        file = IdxFile(write_idx(tmp_path / name, glyphs.train.images.numpy().repeat(2, axis=0)))
        blocks = list(read_image_blocks(file))
        assert read_images_shape(file) == (7520, 28, 28)
        assert [len(block) for block in blocks] == [4096, 3424]
        assert np.array_equal(np.concatenate(blocks), glyphs.train.images.numpy().repeat(2, axis=0))


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_truncated_compressed_file(raw: Path, name: str) -> None:
    (raw / name).write_bytes((raw / name).read_bytes()[:-100])
    assert message(raw) == f"{raw / name} is truncated: the compressed data end too early. Get the file again."


def test_damaged_compressed_file(raw: Path) -> None:
    content = bytearray((raw / IMAGES).read_bytes())
    content[-8] ^= 1  # the check sum
    (raw / IMAGES).write_bytes(content)
    assert message(raw).startswith(f"{raw / IMAGES} is damaged: it cannot be decompressed (CRC check failed 0x")
    (raw / IMAGES).write_bytes(b"<html>404</html>")
    assert message(raw) == (
        f"{raw / IMAGES} is damaged: it cannot be decompressed (Not a gzipped file (b'<h')). Get the file again."
    )


def test_wrong_magic_number(raw: Path) -> None:
    (raw / IMAGES).write_bytes((raw / LABELS).read_bytes())
    finding = "is not an IDX file of images: it starts with 0x00000801, expected 0x00000803"
    assert message(raw) == f"{raw / IMAGES} {finding}. Get the file again."
    rewrite(raw / LABELS, lambda content: b"")
    finding = "is not an IDX file of labels: it starts with nothing, expected 0x00000801"
    assert message(raw) == f"{raw / LABELS} {finding}. Get the file again."


def test_fewer_images_than_the_header_says(raw: Path) -> None:
    file = rewrite(raw / IMAGES, lambda content: content[: 16 + 784 * 100 + 5])
    assert message(raw) == f"{file} is damaged: its header gives 3760 images, but it holds 100. Get the file again."


def test_more_images_than_the_header_says(raw: Path) -> None:
    file = rewrite(raw / IMAGES, lambda content: content + bytes(784))
    assert message(raw) == f"{file} is damaged: its header gives 3760 images, but it holds more. Get the file again."


@pytest.mark.parametrize(("change", "count"), [(-1, 3759), (1, 3761)])
def test_labels_other_in_number_than_the_header_says(raw: Path, change: int, count: int) -> None:
    file = rewrite(raw / LABELS, lambda content: content[:-1] if change < 0 else content + b"\0")
    assert message(raw) == f"{file} is damaged: its header gives 3760 labels, but it holds {count}. Get the file again."


def test_images_and_labels_that_disagree_in_number(raw: Path) -> None:
    (raw / LABELS).write_bytes((raw / LABELS.replace("train", "test")).read_bytes())
    assert message(raw) == (f"{raw / IMAGES} holds 3760 images, but {raw / LABELS} 1880 labels. Get both again.")


def test_images_of_another_size(raw: Path, write_idx: Callable[[Path, npt.NDArray[np.uint8]], Path]) -> None:
    write_idx(raw / IMAGES, np.zeros((3760, 27, 28), np.uint8))
    assert message(raw) == (f"{raw / IMAGES} holds images of 27×28 pixels, expected 28×28. Get the file again.")


def test_label_out_of_range(raw: Path) -> None:
    file = rewrite(raw / LABELS, lambda content: content[:18] + bytes([47]) + content[19:])
    assert message(raw) == (
        f"{file} has the label 47 at position 10, but balanced has labels 0 to 46. "
        "Get the file again, or choose the data set that it belongs to."
    )


def test_the_letters_start_at_one(raw: Path) -> None:
    for file in raw.iterdir():
        file.rename(file.with_name(file.name.replace("balanced", "letters")))
    file = raw / LABELS.replace("balanced", "letters")
    position = int(np.flatnonzero((labels := read_labels(IdxFile(file))) % 27 != labels)[0])
    position = min(position, int(np.flatnonzero(labels == 0)[0]))
    assert message(raw, split="letters") == (
        f"{file} has the label {labels[position]} at position {position}, but letters has labels 1 to 26. "
        "Get the file again, or choose the data set that it belongs to."
    )


def test_a_limit_beyond_the_data(raw: Path) -> None:
    expected = "data.limit_test=1881 is larger than the data set of 1880 images. Leave it out to use them all."
    assert message(raw, limit_test=1881) == expected
