"""The settings of a data set, and the folder where its prepared arrays are cached."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from partrain import checks
from partrain.errors import UserError

DATA_SETS = ("glyphs", "emnist", "mnist", "fashion_mnist", "kmnist")
"""The names of the built-in data sets."""
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
"""The names of EMNIST's splits."""


@dataclass(kw_only=True)
class DataSettings:
    """The settings of a data set: which one, where its files are, and how many images are used."""

    name: str = "glyphs"
    """The data set: glyphs (drawn from fonts, without any files), emnist, mnist, fashion_mnist or kmnist."""
    split: str | None = None
    """The split of EMNIST: byclass, bymerge, balanced, letters, digits or mnist. By default balanced; other data sets
    have none."""
    root: str | None = None
    """Folder of the data set's own files, in torchvision's layout. By default downloads in the cache."""
    download: bool = True
    """Whether missing files are downloaded."""
    cache: str | None = None
    """Folder of the prepared arrays. By default $PARTRAIN_CACHE, or else partrain in the user's cache folder."""
    seed: int = 0
    """The integer from which glyphs are drawn."""
    limit_train: int | None = None
    """Number of training images to use, the first ones, 1 or more. By default all."""
    limit_test: int | None = None
    """Number of test images to use, the first ones, 1 or more. By default all."""

    def __post_init__(self) -> None:
        checks.one_of("data.name", self.name, DATA_SETS)
        if self.name == "emnist":
            self.split = self.split or "balanced"
            checks.one_of("data.split", self.split, EMNIST_SPLITS)
        elif self.split is not None:
            raise UserError(f"data.split={self.split}: {self.name} has no splits. Leave it out, or use emnist.")
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

    @property
    def root_folder(self) -> Path:
        """Return the folder of the data set's own files."""
        return Path(self.root).expanduser() if self.root else self.cache_folder / "downloads"


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return `cache`, or else $PARTRAIN_CACHE, or else partrain's folder among the platform's caches."""
    if chosen := cache or os.environ.get("PARTRAIN_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "partrain" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "partrain"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partrain"
