"""EMNIST, MNIST, Fashion-MNIST and KMNIST: in torchvision's layout, downloaded by torchvision, read from IDX files."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from partrain.data import official
from partrain.data.idx import IdxFile, image_blocks, images_shape, read_labels
from partrain.data.settings import DataSettings
from partrain.data.source import Part, PartName
from partrain.errors import UserError

PIXELS = 28
DIGITS = tuple(string.digits)
MERGED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
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


@dataclass(frozen=True)
class MnistFamily:
    """The source of four data sets that share a format, images of 28x28 bytes.

    root: folder in torchvision's layout; download: fetch into it what is missing.

    Raises:
        ValueError: by every member, where files are missing and may not or cannot be downloaded.
    """

    name: str
    split: str | None
    root: Path
    download: bool

    @classmethod
    def of(cls, settings: DataSettings) -> MnistFamily:
        return cls(settings.name, settings.split, settings.root_folder, settings.download)

    @property
    def classes(self) -> tuple[str, ...]:
        """For EMNIST those of the mapping file, where there is one."""
        if self.split is None:
            return FASHION if self.name == "fashion_mnist" else DIGITS
        mapping = self._folder / f"emnist-{self.split}-mapping.txt"
        known = EMNIST_CLASSES[self.split]
        return _mapped_classes(mapping, self._first_label, len(known)) if mapping.exists() else known

    def identity(self) -> dict[str, Any]:
        """Path, size and time of change of every file read."""
        paths = {str(file): file.path for file in self._files.values()}
        stats = {name: path.stat() for name, path in paths.items()}
        return {
            "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
            "classes": list(self.classes),
        }

    def part(self, part: PartName) -> Part:
        """The training or the test images, upright, with labels from 0."""
        images, labels = self._files[part, "images"], self._files[part, "labels"]
        numbers = read_labels(labels)
        count, *shape = images_shape(images)
        if count != len(numbers):
            raise UserError(f"{images}: {count} images, but {len(numbers)} labels in {labels}; get both again")
        if shape != [PIXELS, PIXELS]:
            raise UserError(f"{images}: images of {shape[0]}x{shape[1]} pixels, expected {PIXELS}x{PIXELS}")
        return Part(self._checked(numbers, labels), (PIXELS, PIXELS), self._upright(images))

    def verification(self) -> tuple[bool, str]:
        """Whether all four files hold the publisher's bytes."""
        return official.verify(self.name, self._files.values())

    @property
    def _folder(self) -> Path:
        return self.root / TORCHVISION[self.name] / "raw"

    @property
    def _first_label(self) -> int:
        return 1 if self.split == "letters" else 0

    @cached_property
    def _files(self) -> dict[tuple[PartName, str], IdxFile]:
        """The four files, by part and content."""
        if self._missing() and self.download:
            self._fetch()
        if missing := self._missing():
            raise UserError(
                f"data.name={self.name}: missing in {self._folder}: {', '.join(missing)} (each unpacked, or with .gz); "
                f"set data.download=true, or data.root to a folder that holds {TORCHVISION[self.name]}/raw with them"
            )
        return {key: file for key, file in self._found().items() if file is not None}

    def _missing(self) -> list[str]:
        names = self._names()
        return [names[key] for key, file in self._found().items() if file is None]

    def _names(self) -> dict[tuple[PartName, str], str]:
        parts: dict[PartName, str] = {"train": "train", "test": "test" if self.split else "t10k"}
        prefix = f"emnist-{self.split}-" if self.split else ""
        contents = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
        return {(part, content): f"{prefix}{parts[part]}-{contents[content]}" for part in parts for content in contents}

    def _found(self) -> dict[tuple[PartName, str], IdxFile | None]:
        """Compressed files first: these can be compared with the publisher's. gzip.zip is NIST's own archive."""
        members = _zip_members(self._folder / "gzip.zip") if self.split else set()
        return {key: _locate(self._folder, name, members) for key, name in self._names().items()}

    def _fetch(self) -> None:
        """Download aside, then move file by file: processes that download at once do not disturb each other."""
        from torchvision import datasets  # here, since only a download needs it

        loader = getattr(datasets, TORCHVISION[self.name])
        split = {"split": self.split} if self.split else {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.root, prefix="download-") as aside:
                loader(aside, train=True, download=True, **split)
                for file in (Path(aside) / TORCHVISION[self.name] / "raw").iterdir():
                    file.replace(self._folder / file.name)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"data.name={self.name}: the download into {self._folder} failed ({reason}); "
                f"put the files there, or set data.root to a folder that holds {TORCHVISION[self.name]}/raw with them"
            ) from error

    def _checked(self, numbers: npt.NDArray[np.uint8], file: IdxFile) -> npt.NDArray[np.uint8]:
        first, last = self._first_label, self._first_label + len(self.classes) - 1
        outside = np.flatnonzero((numbers < first) | (numbers > last))
        if len(outside):
            found = f"label {numbers[outside[0]]} at position {outside[0]}"
            raise UserError(f"{file}: {found}, expected {first} to {last} for {self.split or self.name}")
        return numbers - np.uint8(first)

    def _upright(self, images: IdxFile) -> Iterator[npt.NDArray[np.uint8]]:
        for block in image_blocks(images):
            yield block.transpose(0, 2, 1) if self.name == "emnist" else block


def _locate(folder: Path, name: str, members: set[str]) -> IdxFile | None:
    if (packed := folder / f"{name}.gz").exists():
        return IdxFile(packed)
    if (member := f"gzip/{name}.gz") in members:
        return IdxFile(folder / "gzip.zip", member)
    return IdxFile(folder / name) if (folder / name).exists() else None


def _zip_members(archive: Path) -> set[str]:
    if not archive.exists():
        return set()
    try:
        with ZipFile(archive) as opened:
            return set(opened.namelist())
    except BadZipFile as error:
        raise UserError(f"{archive}: the archive is damaged ({error}); get it again, or remove it") from None


def _mapped_classes(file: Path, first_label: int, count: int) -> tuple[str, ...]:
    """Lines of a label and its code points; the first one (the upper-case letter) gives the class its name."""
    try:
        rows = [[int(number) for number in line.split()] for line in file.read_text().splitlines() if line.strip()]
        names = {label: chr(codes[0]) for label, *codes in rows}
    except (ValueError, IndexError):
        names = {}
    if sorted(names) != list(range(first_label, first_label + count)):
        raise UserError(f"{file}: expected {count} lines of a label and its code points, labels from {first_label}")
    return tuple(names[label] for label in sorted(names))
