"""The settings of a data set, and the folder where its prepared arrays are cached."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from partrain import checks
from partrain.errors import UserError
from partrain.options import Option, Options

EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
"""The names of EMNIST's splits."""


@dataclass(kw_only=True)
class DataSettings(Option):
    """The settings of a data set: which one, where its files are, and how many images are used."""

    group: ClassVar[str] = "data"

    cache: str | None = None
    """Folder of the prepared arrays. By default $PARTRAIN_CACHE, or else partrain in the user's cache folder."""
    limit_train: int | None = None
    """Number of training images to use, the first ones, 1 or more. By default all."""
    limit_test: int | None = None
    """Number of test images to use, the first ones, 1 or more. By default all."""
    validation: float | None = None
    """Fraction of the training images of each class that no training sees, between 0 and 1, to choose by. By default
    none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation is not None and not 0 < self.validation < 1:
            raise UserError(f"data.validation must be between 0 and 1, got {self.validation}")
        for part, limit in self.limits.items():
            if limit is not None:
                checks.at_least(f"data.limit_{part}", limit, 1)

    @property
    def limits(self) -> dict[str, int | None]:
        """Return the number of images to use at most, by part; None for all."""
        return {"train": self.limit_train, "test": self.limit_test}

    @property
    def cache_folder(self) -> Path:
        """Return the folder of prepared arrays."""
        return cache_folder(self.cache)


@dataclass(kw_only=True)
class Glyphs(DataSettings):
    """The settings of the built-in data set, which is drawn from fonts."""

    name: str = "glyphs"
    """The data set: glyphs (drawn from fonts, without any files)."""
    seed: int = 0
    """The integer from which glyphs are drawn."""


@dataclass(kw_only=True)
class FileSettings(DataSettings):
    """The settings of a data set that is read from files."""

    root: str | None = None
    """Folder of the data set's own files, in torchvision's layout. By default downloads in the cache."""
    download: bool = True
    """Whether missing files are downloaded."""

    @property
    def root_folder(self) -> Path:
        """Return the folder of the data set's own files."""
        return Path(self.root).expanduser() if self.root else self.cache_folder / "downloads"


@dataclass(kw_only=True)
class EMNIST(FileSettings):
    """The settings of EMNIST: handwritten letters and digits."""

    name: str = "emnist"
    """The data set: emnist."""
    split: str = "balanced"
    """The split of EMNIST: byclass, bymerge, balanced, letters, digits or mnist."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("data.split", self.split, EMNIST_SPLITS)


@dataclass(kw_only=True)
class MNIST(FileSettings):
    """The settings of MNIST: handwritten digits."""

    name: str = "mnist"
    """The data set: mnist."""


@dataclass(kw_only=True)
class FashionMNIST(FileSettings):
    """The settings of Fashion-MNIST: pictures of clothes."""

    name: str = "fashion_mnist"
    """The data set: fashion_mnist."""


@dataclass(kw_only=True)
class KMNIST(FileSettings):
    """The settings of KMNIST: handwritten Japanese letters."""

    name: str = "kmnist"
    """The data set: kmnist."""


DATA_SETS: Options[DataSettings] = Options(
    DataSettings,
    {"glyphs": Glyphs, "emnist": EMNIST, "mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST},
)
"""The settings of each built-in data set."""


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return `cache`, or else $PARTRAIN_CACHE, or else partrain's folder among the platform's caches."""
    if chosen := cache or os.environ.get("PARTRAIN_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "partrain" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "partrain"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partrain"
