"""Scratch folders, each held by a lock for as long as its process lives, so that the next start removes those left behind.

A lock, unlike a process number, holds across containers that share the file system.
"""

import fcntl
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_PREFIX = "partrain-shards-"
_UNFINISHED_PREFIX = f".{_PREFIX}"
"""The prefix of a folder whose lock is not held yet. No other process touches it."""
_UNFINISHED_SECONDS = 3600.0
"""Seconds after which a folder whose lock is not held yet was left by a process that was killed."""
_LOCK_FILE = "lock"


class ScratchFolder:
    """A new folder in `base`, which stays until it is removed, or its process has ended and another one is made.

    Where the file system has no locks, a folder whose process was killed stays.

    Args:
        base: The folder to make it in.

    Attributes:
        path: The folder.
    """

    def __init__(self, base: Path) -> None:
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=base))
        self._lock = _take_lock_of_new(unfinished)
        self.path = unfinished.rename(base / unfinished.name[1:])

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        remove_scratch(self.path)
        if self._lock is not None:
            self._lock.close()


def remove_left_behind(base: Path) -> None:
    """Remove the scratch folders in `base` of processes that were killed before they could."""
    for folder in base.glob(f"{_UNFINISHED_PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _UNFINISHED_SECONDS:
                remove_scratch(folder)
    for folder in base.glob(f"{_PREFIX}*"):
        # Without a lock file nobody knows whether the folder's process lives. It may be another user's, too.
        with suppress(OSError), (folder / _LOCK_FILE).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_scratch(folder)


def remove_scratch(folder: Path) -> None:
    """Delete a scratch folder with all that is in it, the lock file last: until then a killed removal can be repeated."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != _LOCK_FILE:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _take_lock_of_new(folder: Path) -> BinaryIO | None:
    """Return the lock of a folder that no other process knows of, or None where the file system has no locks."""
    path = folder / _LOCK_FILE
    lock = path.open("xb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        path.unlink()
        return None
    return lock
