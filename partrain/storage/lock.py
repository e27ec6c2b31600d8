"""Locks of folders: one launcher works in a folder at a time, and one process trains in a training's folder.

The system releases a lock when its process ends, however that ends. It belongs to the open file, so that two threads of
one process exclude each other as two processes do.
"""

import fcntl
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from partrain.console import console
from partrain.errors import UserError
from partrain.storage.run_folder import LOCK

_WAIT_SECONDS = 0.05
"""Seconds between looks at a lock that another process holds."""
_SILENT_SECONDS = 2.0
"""Seconds of waiting after which the user is told. A worker of a killed launcher leaves sooner, as a rule."""
_OTHER_FILES = 256
"""Open files of a process beside its locks."""

_folders_without_locks: set[Path] = set()
"""The folders of which the user has been told that their file system has no locks."""


class FolderInUse(UserError):
    """An error that says that another launcher works in a folder, which is therefore left as it is."""


@contextmanager
def hold_lock(folder: Path, work: str) -> Iterator[None]:
    """Hold the lock of `folder`, which says that this process works in it. The folder is made if need be.

    Where the file system has no locks, the context is entered all the same, and one line says so on the console.

    Args:
        folder: The folder.
        work: The work in a word, such as "run" or "search".

    Raises:
        FolderInUse: If another process or thread holds the lock. The message names its process and its machine.
    """
    with _opened_lock(folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(descriptor)
            raise FolderInUse(f"{folder} is being used by another launcher{holder}. Wait for it or stop it.") from None
        except OSError as error:
            _report_no_locks(folder, work, error)
        _write_holder(descriptor, work)
        yield


@contextmanager
def hold_locks(folders: Sequence[Path], work: str) -> Iterator[None]:
    """Hold the locks of all `folders`; see `hold_lock`."""
    _allow_open_files(len(folders))
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(hold_lock(folder, work))
        yield


class LockSet:
    """The locks of folders that are taken and released one by one, and all released at the end of its context.

    Args:
        work: The work in a word, as for `hold_lock`.
    """

    def __init__(self, work: str) -> None:
        self._work = work
        self._held: dict[Path, ExitStack] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in list(self._held):
            self.release(folder)

    def hold(self, folder: Path) -> None:
        """Take the lock of a folder; see `hold_lock`."""
        lock = ExitStack()
        lock.enter_context(hold_lock(folder, self._work))
        self._held[folder] = lock

    def release(self, folder: Path) -> None:
        """Release the lock of a folder, if it is held."""
        lock = self._held.pop(folder, None)
        if lock is not None:
            lock.close()


@contextmanager
def wait_for_locks(
    folders: Sequence[Path], should_stop: Callable[[], bool], report: Callable[[str], None]
) -> Iterator[bool]:
    """Hold the locks of trainings' folders, and first wait for them: the process of a killed launcher may still train.

    Where the file system has no locks, the context is entered at once, and one line says so on the console.

    Args:
        folders: The folders.
        should_stop: A function that says whether to wait no longer.
        report: A function that is called with a line on who holds a lock that is not soon free.

    Yields:
        Whether all locks are held. Otherwise `should_stop` has said so.
    """
    _allow_open_files(len(folders))
    with ExitStack() as locks:
        yield all(
            _wait_for_lock(folder, locks.enter_context(_opened_lock(folder)), should_stop, report) for folder in folders
        )


def _wait_for_lock(
    folder: Path, descriptor: int, should_stop: Callable[[], bool], report: Callable[[str], None]
) -> bool:
    """Take the lock of a folder once it is free, and return whether that was before `should_stop` said so."""
    began_at, is_reported = time.monotonic(), False
    while True:
        try:
            # Python calls flock again after a signal, so that a process which waits in it cannot be stopped.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if should_stop():
                return False
            if not is_reported and time.monotonic() - began_at > _SILENT_SECONDS:
                is_reported = True
                report(f"{folder} is being used by another launcher{_read_holder(descriptor)}; waiting for it.")
            time.sleep(_WAIT_SECONDS)
        except OSError as error:
            _report_no_locks(folder, "training", error)
            break
    _write_holder(descriptor, "training")
    return True


def _allow_open_files(num_locks: int) -> None:
    """Raise the limit of this process's open files, as far as the system lets it, if so many locks need that."""
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_locks + _OTHER_FILES
    if highest != resource.RLIM_INFINITY:
        needed = min(needed, highest)
    if limit != resource.RLIM_INFINITY and limit < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, highest))


@contextmanager
def _opened_lock(folder: Path) -> Iterator[int]:
    """Open the file of a folder's lock and yield its descriptor, which started processes do not inherit.

    The file stays. If it were deleted at the end, one process could hold the deleted file, and another a new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_holder(descriptor: int, work: str) -> None:
    """Write to the lock's file who holds it, and since when, in seconds since 1970."""
    holder = {"work": work, "host": os.uname().nodename, "process": os.getpid(), "time": time.time()}
    with suppress(OSError):  # On a full disk the lock holds without it.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(descriptor: int) -> str:
    """Return the process that holds the lock as the end of a clause, or nothing if the file is empty or damaged."""
    try:
        holder = json.loads(os.pread(descriptor, 10_000, 0))
        return f": process {int(holder['process'])} on host {holder['host']}"
    except (ValueError, TypeError, KeyError):
        return ""


def _report_no_locks(folder: Path, work: str, error: OSError) -> None:
    """Print once for each folder that its file system has no locks."""
    if folder in _folders_without_locks:
        return
    _folders_without_locks.add(folder)
    text = f"{folder} is on a file system without locks ({error.strerror}); let no other launcher use this {work}."
    console.print(text, soft_wrap=True)
