"""Host memory that the scheduler's process and all workers map: it holds shards and boundaries between units."""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from partrain.device import free_bytes
from partrain.errors import UserError
from partrain.shards.scratch import ScratchFolder, remove_left_behind

SHARED_MEMORY = Path("/dev/shm")
_GIB = 2**30


class HostMemory:
    """A set of files of bytes that several processes can map as tensors, until `close` deletes them.

    Files are in shared memory where it has room, otherwise in a folder on disk. Of files on disk, the operating system
    keeps in memory as much as fits.

    Args:
        folder: The folder on disk.
        on_disk: Whether all files go to disk.
        shared_memory: The file system in memory, which exists on Linux.
        allocate: Creates a file of a given size and takes its space, as `allocate_file` does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_disk: bool,
        shared_memory: Path = SHARED_MEMORY,
        allocate: Callable[[Path, int], None] | None = None,
    ) -> None:
        self._disk, self._on_disk = folder, on_disk
        self._allocate = allocate or allocate_file
        bases = [folder] if on_disk or not shared_memory.is_dir() else [shared_memory, folder]
        for base in bases:
            remove_left_behind(base)
        self._scratch: list[ScratchFolder] = []
        try:
            for base in bases:
                self._scratch.append(ScratchFolder(base))
        except OSError:
            self.close()
            raise
        self._num_files = 0

    @property
    def folders(self) -> list[Path]:
        """Return the folders of the files, the preferred one first."""
        return [scratch.path for scratch in self._scratch]

    def check_free(self, needed: int) -> None:
        """Raise `UserError` unless `needed` more bytes are free."""
        free = shutil.disk_usage(self._disk).free if self._on_disk else free_bytes(torch.device("cpu"))
        if needed <= free:
            return
        where = "disk" if self._on_disk else "host memory"
        remedy = "free some" if self._on_disk else "train fewer models at once, or set grouping.spill_to=disk"
        raise UserError(
            f"These models need {needed / _GIB:.2f} GiB of {where}, but {free / _GIB:.2f} GiB are free; {remedy}"
        )

    def create_file(self, num_bytes: int) -> Path:
        """Create a file of `num_bytes` zeros and return its path.

        Its space is taken at once. In a sparse file, the process that writes to it would be killed when space runs out.

        Raises:
            OSError: If neither memory nor disk has room.
        """
        self._num_files += 1
        *preferred, last = [folder / str(self._num_files) for folder in self.folders]
        for path in preferred:
            with suppress(OSError):
                self._allocate_or_remove(path, num_bytes)
                return path
        self._allocate_or_remove(last, num_bytes)
        return last

    def _allocate_or_remove(self, path: Path, num_bytes: int) -> None:
        try:
            self._allocate(path, num_bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def create_files(self, sizes: Iterable[int]) -> list[Path]:
        """Create a file of each size, in bytes, and return their paths. If one fails, none is left.

        Raises:
            OSError: If neither memory nor disk has room.
        """
        paths: list[Path] = []
        try:
            for size in sizes:
                paths.append(self.create_file(size))
        except OSError:
            self.delete_files(paths)
            raise
        return paths

    def delete_files(self, paths: Iterable[Path]) -> None:
        """Delete files. Processes that have mapped them can go on using the bytes."""
        for path in paths:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete all files and their folders."""
        for scratch in self._scratch:
            scratch.remove()


def map_file(path: Path) -> Tensor:
    """Return the file's bytes as a tensor, [bytes], whose changes all processes see that map the file."""
    return torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)


def allocate_file(path: Path, num_bytes: int) -> None:
    """Create a file of `num_bytes` zeros and take its space, where the system can, instead of leaving it sparse.

    Raises:
        OSError: If there is no room.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:  # macOS
            file.truncate(num_bytes)
