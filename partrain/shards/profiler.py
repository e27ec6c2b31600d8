"""A trial step of a model cut into shards, on copies of its tensors: what each unit takes of a device, bytes and seconds."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partrain.device import synchronize
from partrain.packs.capacity import LiveBytesMode
from partrain.shards.device_model import DeviceModel, UnitInputs
from partrain.shards.layout import ShardLayout, TensorSlot, aligned
from partrain.shards.memory import copy_bytes
from partrain.shards.messages import ModelSpec, ShardSpec, UnitRequest, UnitResult
from partrain.shards.scheduler import Cost, Unit, num_units, unit_at
from partrain.training.task import SegmentTask

_ROUNDS = 3  # of which the fastest counts


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """What was seen: `workspace_bytes` of each shard besides its own, `costs` of each unit, what crosses between shards."""

    workspace_bytes: tuple[int, ...]
    costs: tuple[Cost, ...]
    outputs: tuple[TensorSlot, ...]
    gradients: tuple[TensorSlot, ...]


class _StepProfiler:
    """Steps of the model that `spec` describes, over scratch copies of its shards' bytes in `hosts`.

    As in a worker, a shard is on the `device` for one unit alone, so that the device need not hold the model.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, hosts: Sequence[Tensor], separate: bool) -> None:
        self.spec, self.device, self.hosts, self.separate = spec, device, hosts, separate
        self.model = DeviceModel(spec, device, shards_move=separate)
        self.outputs: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}
        self._targets: NDArray[np.generic] | None = None

    def unit(self, position: int, around: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        """Do number `position` of the units of step 0, as a worker does. `around`: its computation."""
        unit = unit_at(0, 0, position, len(self.spec.shards))
        host = self.hosts[unit.shard]
        buffer = host.to(self.device, copy=True) if self.separate else host
        with around():
            self.compute(unit, buffer)
            synchronize(self.device)
        if self.separate and unit.is_backward:
            host.copy_(buffer)

    def compute(self, unit: Unit, buffer: Tensor) -> None:
        shard = unit.shard
        request = UnitRequest(
            unit=unit,
            version=0,
            learning_rate=0.0,
            indices=torch.arange(self.spec.task.train.batch_size).numpy(),
            rng_state=0,
            targets=self._targets if unit.is_forward and unit.is_backward else None,
            is_logged=False,
            ends_epoch=False,
            decode_counts=(0.0, 0.0),
        )
        needs_features = shard > 0 and (unit.is_forward or not self.spec.keeps_activations)
        features = self.outputs[shard - 1].to(self.device, copy=True) if needs_features else None
        gradient = None if unit.is_forward else self.gradients[shard].to(self.device, copy=True)
        result = UnitResult(unit=unit)
        output, left = self.model.compute(request, result, UnitInputs(buffer, features, gradient))
        if result.targets is not None:
            self._targets = result.targets
        if output is not None:
            self.outputs[shard] = output.cpu()
        if left is not None:
            self.gradients[shard - 1] = left.cpu()


def profile_step(
    task: SegmentTask,
    folder: Path,
    decay: float,
    cuts: Sequence[tuple[str | None, str | None]],
    layouts: Sequence[ShardLayout],
    hosts: Sequence[Tensor],
    device: torch.device,
    keep: bool,
    separate: bool,
) -> StepProfile:
    """Try a step of the task's model, cut into shards between `cuts` whose bytes are in `hosts`, which change."""
    shards = tuple(
        ShardSpec(start=start, stop=stop, layout=layout, file=Path(), workspace_bytes=0)
        for (start, stop), layout in zip(cuts, layouts, strict=True)
    )
    spec = ModelSpec(
        folder=folder, task=task, default_decay=decay, shards=shards, crossings=(), keeps_activations=False
    )
    work = [0] * len(shards)
    rehearsal = _StepProfiler(spec, device, hosts, separate)
    for _ in range(2):  # the first time, what a process loads once is counted too
        work = [0] * len(shards)
        for position in range(num_units(len(shards))):
            shard = unit_at(0, 0, position, len(shards)).shard
            live = LiveBytesMode()
            rehearsal.unit(position, around=lambda live=live: live)  # type: ignore[misc]
            work[shard] = max(work[shard], live.peak_bytes)
    outputs = tuple(_place(rehearsal.outputs[number]) for number in range(len(shards) - 1))
    gradients = tuple(
        _place(rehearsal.gradients[number], offset=aligned(output.num_bytes)) for number, output in enumerate(outputs)
    )
    spec = replace(spec, keeps_activations=keep)
    return StepProfile(
        workspace_bytes=tuple(work), costs=_timed(spec, device, hosts, separate), outputs=outputs, gradients=gradients
    )


def _place(tensor: Tensor, offset: int = 0) -> TensorSlot:
    return TensorSlot(offset, tensor.dtype, tuple(tensor.shape), torch.empty_like(tensor).stride())


def _timed(spec: ModelSpec, device: torch.device, hosts: Sequence[Tensor], separate: bool) -> tuple[Cost, ...]:
    """The least of a few seconds of every unit, and of copying its shard in and out."""
    rehearsal, count = _StepProfiler(spec, device, hosts, separate), len(spec.shards)
    seconds: list[list[float]] = [[] for _ in range(num_units(count))]
    for _ in range(_ROUNDS):
        for position, spent in enumerate(seconds):
            rehearsal.unit(position, around=lambda spent=spent: _clocked(spent))  # type: ignore[misc]
    costs = []
    for position, spent in enumerate(seconds):
        unit = unit_at(0, 0, position, count)
        layout, host = spec.shards[unit.shard].layout, hosts[unit.shard]
        until = layout.num_bytes if unit.is_backward else layout.forward_bytes
        changed = slice(0, until) if unit.is_backward else slice(*layout.buffer_range)
        buffer = torch.empty_like(host, device=device)
        load = _copying(host[:until], buffer[:until])
        store = _copying(buffer[changed], torch.empty_like(host[changed])) if changed.start < changed.stop else 0.0
        costs.append(Cost(seconds=min(spent), load=load, store=store))
    return tuple(costs)


@contextmanager
def _clocked(seconds: list[float]) -> Iterator[None]:
    """Adds the seconds within it."""
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)


def _copying(source: Tensor, target: Tensor) -> float:
    """Seconds."""
    copy_bytes(source, target)
    began = time.perf_counter()
    copy_bytes(source, target)
    return time.perf_counter() - began
