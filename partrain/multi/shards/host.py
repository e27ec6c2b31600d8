"""Host memory that the scheduler's process and the workers share: where shards and boundaries are between units."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from partrain.multi.capacity import free_bytes

_SHARED_MEMORY = Path("/dev/shm")
_GIB = 2**30


class HostMemory:
    """Files of bytes that every process can map; gone once `close` is called.

    In shared memory where there is room, else, or where `on_disk` asks for it, in `folder`, where the system keeps in
    memory as much as it can.

    Raises:
        ValueError: `needed` bytes are more than the host has.
    """

    def __init__(self, folder: Path, needed: int, on_disk: bool) -> None:
        free = shutil.disk_usage(folder).free if on_disk else free_bytes(torch.device("cpu"))
        if needed > free:
            where = "disk" if on_disk else "host memory"
            remedy = "free some" if on_disk else "train fewer models at once, or set shards.spill_to=disk"
            raise ValueError(
                f"these models need {needed / _GIB:.2f} GiB of {where}, {free / _GIB:.2f} GiB are free; {remedy}"
            )
        in_memory = not on_disk and _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > needed
        self.folder = Path(tempfile.mkdtemp(prefix="partrain-", dir=_SHARED_MEMORY if in_memory else folder))
        self._count = 0

    def make(self, num_bytes: int) -> Path:
        """A new file of so many bytes."""
        path = self.folder / str(self._count)
        self._count += 1
        with path.open("wb") as file:
            file.truncate(num_bytes)
        return path

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def map_bytes(path: Path) -> Tensor:
    """The file's bytes, as a tensor that is shared with all who map it."""
    return torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)
