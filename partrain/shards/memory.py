"""A device's memory as its worker sees it: shards come, stay as long as there is room, and go."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partrain.device import copy_on_own_stream, is_gpu, pin, unpin
from partrain.shards.host import map_bytes
from partrain.shards.messages import ShardSpec

Key = tuple[int, int]  # model and shard


@dataclass(eq=False)
class Resident:
    """A shard that is on the device: its bytes there and in host memory, and how far they are alike.

    `version` is that of the host's bytes when they were copied, `loaded` how many were. `work_bytes`: what its unit takes
    besides. `in_use`: by a unit.
    """

    host: Tensor
    buffer: Tensor
    version: int
    loaded: int
    work_bytes: int
    in_use: bool = True


class DeviceMemory:
    """At most `budget` bytes of shards and of the work of one unit at a time.

    `peak`: the most there have been. `residents`: what is on the device, those used last are last. `hosts`: what of
    host memory is mapped. `separate`: shards are copied from host memory and back; else, on a CPU, they are computed
    where they are.
    """

    def __init__(self, device: torch.device, budget: int, separate: bool) -> None:
        self.device, self.budget, self.separate = device, budget, separate
        self.peak = 0
        self.residents: OrderedDict[Key, Resident] = OrderedDict()
        self.hosts: dict[Key, Tensor] = {}
        self._changed = threading.Condition()

    def take(self, key: Key, spec: ShardSpec, version: int) -> Resident:
        """Wait until there is room for the shard; its bytes are still to be copied, from `loaded` on."""
        with self._changed:
            resident = self.residents.pop(key, None)
            if resident is not None and resident.version != version:
                resident = None
            while not self._makes_room(spec, resident):
                self._changed.wait()
            if resident is None:
                host = self._host(key, spec.file)
                buffer = torch.empty(len(host), dtype=torch.uint8, device=self.device) if self.separate else host
                resident = Resident(host, buffer, version, 0, spec.work_bytes)
            resident.in_use = True
            self.residents[key] = resident
            self.peak = max(self.peak, self._held())
            return resident

    def leave(self, resident: Resident) -> None:
        """The shard stays as it is until it is taken again, or others need room."""
        with self._changed:
            resident.in_use = False
            self._changed.notify_all()

    def give(self, resident: Resident, version: int) -> None:
        """The unit is done, and the host's bytes, now of `version`, are the same; the shard stays until others need room."""
        resident.version = version
        self.leave(resident)

    def forget(self, model: int) -> None:
        """Let go of all shards of `model`."""
        with self._changed:
            for key in [key for key in self.residents if key[0] == model]:
                del self.residents[key]
            for key in [key for key in self.hosts if key[0] == model]:
                host = self.hosts.pop(key)
                if is_gpu(self.device):
                    unpin(host)
            self._changed.notify_all()

    def _makes_room(self, spec: ShardSpec, resident: Resident | None) -> bool:
        """Whether the shard fits beside those in use, once others have been let go of."""
        size = spec.layout.num_bytes
        while self._held(size, spec.work_bytes) > self.budget:
            idle = next((key for key, each in self.residents.items() if not each.in_use), None)
            if idle is None:
                return not self.residents  # alone it is let in: that it fits has been seen in a trial
            del self.residents[idle]
        return True

    def _held(self, size: int = 0, work: int = 0) -> int:
        """Bytes of all shards, and of the largest work among those in use."""
        held = self.residents.values()
        return size + sum(len(each.buffer) for each in held) + max([work, *(r.work_bytes for r in held if r.in_use)])

    def _host(self, key: Key, file: Path) -> Tensor:
        if key not in self.hosts:
            self.hosts[key] = map_bytes(file)
            if is_gpu(self.device):
                pin(self.hosts[key])
        return self.hosts[key]


def copy_bytes(source: Tensor, target: Tensor) -> None:
    """Copy bytes between host memory and a device, or on a CPU by a single core; returns when it is done."""
    if source.device.type == target.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy())  # torch would take threads from those that compute
        return
    copy_on_own_stream(source, target)
