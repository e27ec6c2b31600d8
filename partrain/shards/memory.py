"""The memory of a device, as its worker manages it: a cache of shards within a budget of bytes."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partrain.device import copy_on_own_stream, is_cpu, pin, unpin
from partrain.shards.host import map_file
from partrain.shards.messages import ShardSpec

ShardKey = tuple[int, int]
"""The number of a model and of its shard."""


@dataclass(eq=False)
class ResidentShard:
    """A shard that has a buffer on the device."""

    host: Tensor
    """The shard's bytes in host memory, [bytes]."""
    buffer: Tensor
    """The shard's bytes on the device, [bytes]; on a CPU without separate buffers the same tensor as `host`."""
    version: int
    """The version of the host's bytes that `buffer` has."""
    loaded_bytes: int
    """How many bytes from the start have been copied to `buffer`."""
    workspace_bytes: int
    """Bytes that computing the shard takes besides."""
    in_use: bool = True
    """Whether a unit needs the shard now, so that it must not be evicted."""


class DeviceMemory:
    """A cache of shards on a device: the least recently used ones are evicted when others need room.

    The shards and the largest workspace of those in use take at most `budget_bytes` bytes together. A shard that is
    alone is admitted even if it takes more. Threads of a worker use the cache at once.

    Args:
        device: The device.
        budget_bytes: Bytes for shards and the workspace of one unit.
        uses_separate_buffers: Whether shards are copied from host memory to buffers of their own and back. Without, a
            CPU computes them where they are in host memory.
    """

    def __init__(self, device: torch.device, budget_bytes: int, *, uses_separate_buffers: bool) -> None:
        self.device, self.budget_bytes = device, budget_bytes
        self.uses_separate_buffers = uses_separate_buffers
        self.peak_bytes = 0
        """The most bytes that shards and workspace have taken together."""
        self.residents: OrderedDict[ShardKey, ResidentShard] = OrderedDict()
        """The shards on the device, from the least to the most recently used."""
        self.host_bytes: dict[ShardKey, Tensor] = {}
        """The host memory of shards, mapped when first used."""
        self._changed = threading.Condition()

    def acquire(self, key: ShardKey, spec: ShardSpec, version: int) -> ResidentShard:
        """Wait until the shard has room on the device, and mark it as in use.

        The caller copies the bytes that the buffer lacks, from `loaded_bytes` on, and releases the shard.

        Args:
            key: The shard.
            spec: Its sizes, and its file in host memory.
            version: The version that is needed. A buffer that has another one is thrown away.
        """
        with self._changed:
            resident = self.residents.pop(key, None)
            if resident is not None and resident.version != version:
                resident = None
            while not self._make_room(spec, resident):
                self._changed.wait()
            if resident is None:
                resident = self._new_resident(key, spec, version)
            resident.in_use = True
            self.residents[key] = resident
            self.peak_bytes = max(self.peak_bytes, self._used_bytes())
            return resident

    def release(self, resident: ResidentShard) -> None:
        """Allow the shard to be evicted. It stays on the device until others need room."""
        with self._changed:
            resident.in_use = False
            self._changed.notify_all()

    def release_stored(self, resident: ResidentShard, version: int) -> None:
        """Release a shard whose changes have been copied back, so that host and buffer now have `version`."""
        resident.version = version
        self.release(resident)

    def evict_all(self) -> None:
        """Wait until no shard is in use, and drop all of them on the device."""
        with self._changed:
            while any(shard.in_use for shard in self.residents.values()):
                self._changed.wait()
            self.residents.clear()

    def evict_model(self, model_id: int) -> None:
        """Drop all shards of a model, on the device and in host memory."""
        with self._changed:
            for key in [key for key in self.residents if key[0] == model_id]:
                del self.residents[key]
            for key in [key for key in self.host_bytes if key[0] == model_id]:
                unpin(self.host_bytes.pop(key), self.device)
            self._changed.notify_all()

    def _make_room(self, spec: ShardSpec, resident: ResidentShard | None) -> bool:
        """Evict shards that are not in use until the new one fits, and return whether it does."""
        size = spec.layout.num_bytes
        while self._used_bytes(size, spec.workspace_bytes) > self.budget_bytes:
            idle = next((key for key, shard in self.residents.items() if not shard.in_use), None)
            if idle is None:
                return not self.residents  # A shard alone is admitted: profiling has shown that it fits.
            del self.residents[idle]
        return True

    def _used_bytes(self, new_shard: int = 0, new_workspace: int = 0) -> int:
        """Return the bytes of all shards and of the largest workspace in use, with those of a new shard."""
        shards = self.residents.values()
        workspaces = [shard.workspace_bytes for shard in shards if shard.in_use]
        return new_shard + sum(len(shard.buffer) for shard in shards) + max([new_workspace, *workspaces])

    def _new_resident(self, key: ShardKey, spec: ShardSpec, version: int) -> ResidentShard:
        host = self._map_host(key, spec.file)
        buffer = host
        if self.uses_separate_buffers:
            buffer = torch.empty(len(host), dtype=torch.uint8, device=self.device)
        return ResidentShard(host, buffer, version, loaded_bytes=0, workspace_bytes=spec.workspace_bytes)

    def _map_host(self, key: ShardKey, file: Path) -> Tensor:
        if key not in self.host_bytes:
            self.host_bytes[key] = map_file(file)
            pin(self.host_bytes[key], self.device)
        return self.host_bytes[key]


def copy_bytes(source: Tensor, target: Tensor) -> None:
    """Copy bytes, [bytes], between host memory and a device, and return when they are copied.

    On a CPU one core copies. `Tensor.copy_` would take threads from the thread that computes.
    """
    if is_cpu(source.device) and is_cpu(target.device):
        np.copyto(target.numpy(), source.numpy())
        return
    copy_on_own_stream(source, target)
