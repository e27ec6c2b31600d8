"""Which data set to train on, and where its files and its prepared arrays lie."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from partrain import checks
from partrain.errors import UserError

DATA_SETS = ("glyphs", "emnist", "mnist", "fashion_mnist", "kmnist")
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")


@dataclass(kw_only=True)
class DataSettings:
    """A data set, as a user names it.

    name: one of `DATA_SETS`. `glyphs` is drawn from fonts and needs no files.
    split: `emnist` only, one of `EMNIST_SPLITS`; None there means `balanced`.
    root: folder in torchvision's layout (root/EMNIST/raw/…, root/MNIST/raw/…); None means `downloads` in the cache.
    download: fetch files that are missing.
    cache: folder of the prepared arrays; None means $PARTRAIN_CACHE, or else the user's cache folder.
    seed: `glyphs` only.
    limit_train, limit_test: use only the first n images. (EMNIST's `letters` test split is sorted by class.)

    Raises:
        ValueError: an unknown data set or split, a split without EMNIST, or a limit below 1.
    """

    name: str = "glyphs"
    split: str | None = None
    root: str | None = None
    download: bool = True
    cache: str | None = None
    seed: int = 0
    limit_train: int | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        checks.one_of("data.name", self.name, DATA_SETS)
        if self.name == "emnist":
            self.split = self.split or "balanced"
            checks.one_of("data.split", self.split, EMNIST_SPLITS)
        elif self.split is not None:
            raise UserError(f"data.split={self.split}: {self.name} has no splits; leave it out, or use emnist")
        for part, limit in self.limits.items():
            if limit is not None:
                checks.at_least(f"data.limit_{part}", limit, 1)

    @property
    def limits(self) -> dict[str, int | None]:
        """How many images to use at most, by part."""
        return {"train": self.limit_train, "test": self.limit_test}

    @property
    def cache_folder(self) -> Path:
        """Where prepared arrays lie."""
        return cache_folder(self.cache)

    @property
    def root_folder(self) -> Path:
        """Where a data set's own files lie."""
        return Path(self.root).expanduser() if self.root else self.cache_folder / "downloads"


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """`cache` itself, or else $PARTRAIN_CACHE, or else partrain's folder in the platform's place for caches."""
    if chosen := cache or os.environ.get("PARTRAIN_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "partrain" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "partrain"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partrain"
