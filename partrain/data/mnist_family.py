"""The source of EMNIST, MNIST, Fashion-MNIST and KMNIST: files in torchvision's layout, which it also downloads.

torchvision reads each of them whole and leaves EMNIST transposed; here images are read in blocks and turned upright.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from partrain.data import official
from partrain.data.idx import IdxFile, read_image_blocks, read_images_shape, read_labels
from partrain.data.settings import EMNIST, FileSettings
from partrain.data.source import PartName, SourcePart, UInt8Array, Verification
from partrain.errors import UserError

PIXELS = 28
"""Height and width of an image."""
DIGITS = tuple(string.digits)
MERGED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
"""Classes of the splits where a lower-case letter that looks like its upper case shares a class with it."""
EMNIST_CLASSES = {
    "byclass": (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase),
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": tuple(string.ascii_uppercase),
    "digits": DIGITS,
    "mnist": DIGITS,
}
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TORCHVISION = {"emnist": "EMNIST", "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Names of torchvision's classes, which are those of the folders as well."""

FileKey = tuple[PartName, str]
"""Part ("train" or "test") and content ("images" or "labels") of a file."""


@dataclass(frozen=True)
class MnistFamilySource:
    """The source of one of four data sets that share a format, images of 28×28 bytes.

    Attributes:
        name: Name of the data set, one of those in `TORCHVISION`.
        split: EMNIST's split, or None for the other data sets.
        root: Folder in torchvision's layout.
        download: Whether files that are missing are downloaded into `root`.

    Raises:
        UserError: If files are missing and cannot or may not be downloaded. `identity`, `open_part` and `verify` raise
            this.
    """

    name: str
    split: str | None
    root: Path
    download: bool

    @classmethod
    def from_settings(cls, settings: FileSettings) -> MnistFamilySource:
        """Return the source of the data set that `settings` name."""
        split = settings.split if isinstance(settings, EMNIST) else None
        return cls(settings.name, split, settings.root_folder, settings.download)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes. EMNIST's are those of its mapping file, if there is one."""
        if self.split is None:
            return FASHION if self.name == "fashion_mnist" else DIGITS
        classes = EMNIST_CLASSES[self.split]
        mapping = self._folder / f"emnist-{self.split}-mapping.txt"
        return _read_classes(mapping, self._first_label, len(classes)) if mapping.exists() else classes

    def identity(self) -> dict[str, Any]:
        """Return the path, the size and the time of change of every file that is read, and the classes."""
        paths = {str(file): file.path for file in self._files.values()}
        stats = {name: path.stat() for name, path in paths.items()}
        return {
            "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
            "classes": list(self.classes),
        }

    def open_part(self, part: PartName) -> SourcePart:
        """Return the training or the test images, upright, with labels from 0.

        Raises:
            UserError: If a file is damaged or holds something else than this data set.
        """
        images, labels = self._files[part, "images"], self._files[part, "labels"]
        file_labels = read_labels(labels)
        count, *shape = read_images_shape(images)
        if count != len(file_labels):
            raise UserError(f"{images} holds {count} images, but {labels} {len(file_labels)} labels. Get both again.")
        if shape != [PIXELS, PIXELS]:
            raise UserError(
                f"{images} holds images of {shape[0]}×{shape[1]} pixels, expected {PIXELS}×{PIXELS}. Get the file again."
            )
        return SourcePart(self._labels_from_zero(file_labels, labels), (PIXELS, PIXELS), self._upright_blocks(images))

    def verify(self) -> Verification:
        """Return whether all four files hold the publisher's bytes."""
        return official.verify(self.name, self._files.values())

    # ---- Labels and images.

    @property
    def _first_label(self) -> int:
        """Return the label of the first class in the files. EMNIST Letters counts from 1."""
        return 1 if self.split == "letters" else 0

    def _labels_from_zero(self, labels: UInt8Array, file: IdxFile) -> UInt8Array:
        """Return the `labels` of `file` counted from 0, or raise `UserError` if one belongs to no class."""
        first, last = self._first_label, self._first_label + len(self.classes) - 1
        outside = np.flatnonzero((labels < first) | (labels > last))
        if len(outside):
            position = outside[0]
            raise UserError(
                f"{file} has the label {labels[position]} at position {position}, but {self.split or self.name} has "
                f"labels {first} to {last}. Get the file again, or choose the data set that it belongs to."
            )
        return labels - np.uint8(first)

    def _upright_blocks(self, images: IdxFile) -> Iterator[UInt8Array]:
        """Yield the images in blocks. EMNIST's files hold them transposed."""
        for block in read_image_blocks(images):
            yield block.transpose(0, 2, 1) if self.name == "emnist" else block

    # ---- Files.

    @property
    def _folder(self) -> Path:
        return self.root / TORCHVISION[self.name] / "raw"

    @cached_property
    def _files(self) -> dict[FileKey, IdxFile]:
        """Return the four files, after downloading those that are missing if that is allowed."""
        names = self._file_names()
        files = self._find_files(names)
        if self.download and len(files) < len(names):
            self._download_files()
            files = self._find_files(names)
        if missing := [name for key, name in names.items() if key not in files]:
            raise UserError(
                f"data.name={self.name}: {self._folder} lacks {', '.join(missing)} (each unpacked, or with .gz). "
                f"Set data.download=true, or data.root to a folder that holds {TORCHVISION[self.name]}/raw with them."
            )
        return files

    def _file_names(self) -> dict[FileKey, str]:
        """Return the names of the four files, without the ending .gz."""
        parts: dict[PartName, str] = {"train": "train", "test": "test" if self.split else "t10k"}
        prefix = f"emnist-{self.split}-" if self.split else ""
        contents = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
        keys = itertools.product(parts, contents)
        return {(part, content): f"{prefix}{parts[part]}-{contents[content]}" for part, content in keys}

    def _find_files(self, names: Mapping[FileKey, str]) -> dict[FileKey, IdxFile]:
        """Return the files that are there: in the folder, or in gzip.zip, the archive that NIST publishes."""
        members = _zip_members(self._folder / "gzip.zip") if self.split else set()
        files = {key: _find_file(self._folder, name, members) for key, name in names.items()}
        return {key: file for key, file in files.items() if file is not None}

    def _download_files(self) -> None:
        """Download into a temporary folder, then move file by file, so that simultaneous downloads do not collide."""
        from torchvision import datasets  # Imported here, since only a download needs it.

        torchvision_dataset = getattr(datasets, TORCHVISION[self.name])
        split = {"split": self.split} if self.split else {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.root, prefix="download-") as temporary:
                torchvision_dataset(temporary, train=True, download=True, **split)
                for file in (Path(temporary) / TORCHVISION[self.name] / "raw").iterdir():
                    file.replace(self._folder / file.name)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"data.name={self.name}: the download into {self._folder} failed ({reason}). "
                f"Put the files there, or set data.root to a folder that holds {TORCHVISION[self.name]}/raw with them."
            ) from error


def _find_file(folder: Path, name: str, members: set[str]) -> IdxFile | None:
    """Return the file called `name` or `name`.gz; a compressed one first, since its published hash is known."""
    if (compressed := folder / f"{name}.gz").exists():
        return IdxFile(compressed)
    if (member := f"gzip/{name}.gz") in members:
        return IdxFile(folder / "gzip.zip", member)
    return IdxFile(folder / name) if (folder / name).exists() else None


def _zip_members(archive: Path) -> set[str]:
    """Return the names of the files in `archive`, none if it is missing."""
    if not archive.exists():
        return set()
    try:
        with ZipFile(archive) as opened:
            return set(opened.namelist())
    except BadZipFile as error:
        raise UserError(f"{archive} is damaged ({error}). Get the archive again, or remove it.") from None


def _read_classes(file: Path, first_label: int, count: int) -> tuple[str, ...]:
    """Return the names of the classes from EMNIST's mapping file.

    Each line has a label and the code points of its characters. The first of them, the upper case, is the class's name.
    """
    names = {}
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
        for line in lines:
            label, code, *_ = map(int, line.split())
            names[label] = chr(code)
    except ValueError:
        names = {}  # Reported below, as a file without lines is.
    if sorted(names) != list(range(first_label, first_label + count)):
        raise UserError(
            f"{file} is damaged: expected {count} lines of a label and its code points, labels from {first_label}. "
            "Get the file again, or delete it."
        )
    return tuple(names[label] for label in sorted(names))
