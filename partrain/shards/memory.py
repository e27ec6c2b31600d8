"""A device's memory as its worker sees it: shards come, stay as long as there is room, and go."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partrain.device import copy_on_own_stream, is_gpu, pin, unpin
from partrain.shards.host import map_file
from partrain.shards.messages import ShardSpec

Key = tuple[int, int]  # model and shard


@dataclass(eq=False)
class ResidentShard:
    """A shard that is on the device: its bytes there and in host memory, and how far they are alike.

    `version` is that of the host's bytes when they were copied, `loaded_bytes` how many were. `workspace_bytes`: what
    its unit takes besides. `in_use`: by a unit.
    """

    host: Tensor
    buffer: Tensor
    version: int
    loaded_bytes: int
    workspace_bytes: int
    in_use: bool = True


class DeviceMemory:
    """At most `budget` bytes of shards and of the work of one unit at a time.

    `peak`: the most there have been. `residents`: what is on the device, those used last are last. `hosts`: what of
    host memory is mapped. `separate`: shards are copied from host memory and back; else, on a CPU, they are computed
    where they are.
    """

    def __init__(self, device: torch.device, budget_bytes: int, *, uses_separate_buffers: bool) -> None:
        self.device = device
        self.budget_bytes, self.uses_separate_buffers = budget_bytes, uses_separate_buffers
        self.peak_bytes = 0
        self.residents: OrderedDict[Key, ResidentShard] = OrderedDict()
        self.host_bytes: dict[Key, Tensor] = {}
        self._changed = threading.Condition()

    def acquire(self, key: Key, spec: ShardSpec, version: int) -> ResidentShard:
        """Wait until there is room for the shard; its bytes are still to be copied, from `loaded` on."""
        with self._changed:
            resident = self.residents.pop(key, None)
            if resident is not None and resident.version != version:
                resident = None
            while not self._makes_room(spec, resident):
                self._changed.wait()
            if resident is None:
                host = self._host(key, spec.file)
                buffer = (
                    torch.empty(len(host), dtype=torch.uint8, device=self.device)
                    if self.uses_separate_buffers
                    else host
                )
                resident = ResidentShard(host, buffer, version, 0, spec.workspace_bytes)
            resident.in_use = True
            self.residents[key] = resident
            self.peak_bytes = max(self.peak_bytes, self._held())
            return resident

    def release(self, resident: ResidentShard) -> None:
        """The shard stays as it is until it is taken again, or others need room."""
        with self._changed:
            resident.in_use = False
            self._changed.notify_all()

    def release_stored(self, resident: ResidentShard, version: int) -> None:
        """The unit is done, and the host's bytes, now of `version`, are the same; the shard stays until others need room."""
        resident.version = version
        self.release(resident)

    def evict_model(self, model: int) -> None:
        """Let go of all shards of `model`."""
        with self._changed:
            for key in [key for key in self.residents if key[0] == model]:
                del self.residents[key]
            for key in [key for key in self.host_bytes if key[0] == model]:
                host = self.host_bytes.pop(key)
                if is_gpu(self.device):
                    unpin(host)
            self._changed.notify_all()

    def _makes_room(self, spec: ShardSpec, resident: ResidentShard | None) -> bool:
        """Whether the shard fits beside those in use, once others have been let go of."""
        size = spec.layout.num_bytes
        while self._held(size, spec.workspace_bytes) > self.budget_bytes:
            idle = next((key for key, each in self.residents.items() if not each.in_use), None)
            if idle is None:
                return not self.residents  # alone it is let in: that it fits has been seen in a trial
            del self.residents[idle]
        return True

    def _held(self, size: int = 0, work: int = 0) -> int:
        """Bytes of all shards, and of the largest work among those in use."""
        held = self.residents.values()
        return (
            size + sum(len(each.buffer) for each in held) + max([work, *(r.workspace_bytes for r in held if r.in_use)])
        )

    def _host(self, key: Key, file: Path) -> Tensor:
        if key not in self.host_bytes:
            self.host_bytes[key] = map_file(file)
            if is_gpu(self.device):
                pin(self.host_bytes[key])
        return self.host_bytes[key]


def copy_bytes(source: Tensor, target: Tensor) -> None:
    """Copy bytes between host memory and a device, or on a CPU by a single core; returns when it is done."""
    if source.device.type == target.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy())  # torch would take threads from those that compute
        return
    copy_on_own_stream(source, target)
