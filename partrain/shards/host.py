"""Host memory that the scheduler's process and the workers share: where shards and boundaries are between units."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from partrain.device import free_bytes
from partrain.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "partrain-"
_GIB = 2**30


class HostMemory:
    """Files of bytes that every process can map; gone once `close` is called.

    In shared memory where there is room, else, or where `on_disk` asks for it, in `folder`, where the system keeps in
    memory as much as it can. `allocate`: makes a file, as `allocate_file` does.
    """

    def __init__(
        self,
        folder: Path,
        on_disk: bool,
        shared_memory: Path = SHARED_MEMORY,
        allocate: Callable[[Path, int], None] | None = None,
    ) -> None:
        self._disk, self._on_disk = folder, on_disk
        self._allocate = allocate or allocate_file
        bases = [folder] if on_disk or not shared_memory.is_dir() else [shared_memory, folder]
        for base in bases:
            _remove_left_behind(base)
        self.folders = [Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base)) for base in bases]
        self._count = 0

    def check_free(self, needed: int) -> None:
        """That `needed` bytes more can be had.

        Raises:
            ValueError: they cannot.
        """
        free = shutil.disk_usage(self._disk).free if self._on_disk else free_bytes(torch.device("cpu"))
        if needed > free:
            where = "disk" if self._on_disk else "host memory"
            remedy = "free some" if self._on_disk else "train fewer models at once, or set launch.shards.spill_to=disk"
            raise UserError(
                f"these models need {needed / _GIB:.2f} GiB of {where}, {free / _GIB:.2f} GiB are free; {remedy}"
            )

    def create_file(self, num_bytes: int) -> Path:
        """A new file of so many bytes, which are there from now on: a file with holes would end a process that fills one.

        Raises:
            OSError: neither memory nor disk has room.
        """
        self._count += 1
        for folder in self.folders:
            path = folder / str(self._count)
            try:
                self._allocate(path, num_bytes)
            except OSError:
                path.unlink(missing_ok=True)
                if folder == self.folders[-1]:
                    raise
            else:
                break
        return path

    def create_files(self, sizes: Iterable[int]) -> list[Path]:
        """A new file of each of these numbers of bytes; all of them, or none.

        Raises:
            OSError: as `make`.
        """
        made: list[Path] = []
        try:
            for size in sizes:
                made.append(self.create_file(size))
        except OSError:
            self.delete_files(made)
            raise
        return made

    def delete_files(self, paths: Iterable[Path]) -> None:
        """Let go of files; who has them mapped may still use them."""
        for path in paths:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def map_file(path: Path) -> Tensor:
    """The file's bytes, as a tensor that is shared with all who map it."""
    return torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)


def allocate_file(path: Path, num_bytes: int) -> None:
    """Make a file of so many bytes, without holes where the system can.

    Raises:
        OSError: There is no room.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:  # macOS
            file.truncate(num_bytes)


def _remove_left_behind(base: Path) -> None:
    """Remove what a process that was killed could not."""
    for folder in base.glob(f"{_PREFIX}*-*"):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        try:
            os.kill(process, 0)
        except PermissionError:  # somebody else's
            return True
        return True
    return False
