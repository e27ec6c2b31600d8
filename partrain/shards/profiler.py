"""Trial steps of a model cut into shards, on copies of its tensors: the bytes and seconds that each unit takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partrain.device import synchronize
from partrain.packs.capacity import LiveBytesMode
from partrain.shards.device_model import DeviceModel, UnitInputs
from partrain.shards.host import map_file
from partrain.shards.layout import CrossingSlots, TensorSlot, align
from partrain.shards.memory import copy_bytes
from partrain.shards.messages import ModelSpec, StepProfile, UnitRequest, UnitResult
from partrain.shards.scheduler import Cost, Unit, num_units, unit_at

_TIMED_STEPS = 3
"""Each unit's time is the shortest of so many steps."""


def profile_step(
    spec: ModelSpec,
    device: torch.device,
    *,
    uses_separate_buffers: bool,
    report_progress: Callable[[], None] = lambda: None,
) -> StepProfile:
    """Compute a few steps of a model, and return what they take.

    Args:
        spec: The model. The steps change the files of its shards.
        device: The device to compute on. It holds one shard at a time, while a worker's may hold several.
        uses_separate_buffers: Whether shards are copied to the device, even if that is a CPU.
        report_progress: A function that is called after each unit.
    """
    trial = _TrialArguments(spec, device, uses_separate_buffers, report_progress)
    # Memory is measured while activations are recomputed. Offloaded ones would be counted, though they are in host memory.
    recomputing = _TrialModel(trial, keeps_activations=False)
    recomputing.measure_workspaces()  # The first time, whatever a process loads only once is counted too.
    workspace_bytes = recomputing.measure_workspaces()
    crossings = recomputing.crossing_slots()

    timed = _TrialModel(trial, keeps_activations=spec.keeps_activations)
    return StepProfile(workspace_bytes=tuple(workspace_bytes), costs=timed.measure_costs(), crossings=crossings)


@dataclass(frozen=True)
class _TrialArguments:
    """The arguments of `profile_step`."""

    spec: ModelSpec
    device: torch.device
    uses_separate_buffers: bool
    report_progress: Callable[[], None]


class _TrialModel:
    """A model whose step 0 is computed again and again.

    Args:
        trial: The model, and the device.
        keeps_activations: Whether activations are kept for the backward pass, instead of the setting of `trial`.
    """

    def __init__(self, trial: _TrialArguments, *, keeps_activations: bool) -> None:
        self.spec, self.device = replace(trial.spec, keeps_activations=keeps_activations), trial.device
        self.uses_separate_buffers = trial.uses_separate_buffers
        self.shard_bytes = [map_file(shard.file) for shard in self.spec.shards]
        """The bytes of each shard in host memory, [bytes]."""
        self.model = DeviceModel(self.spec, self.device, shards_move=self.uses_separate_buffers)
        num_shards = len(self.spec.shards)
        self.units = [unit_at(0, 0, position, num_shards) for position in range(num_units(num_shards))]
        self.outputs: dict[int, Tensor] = {}
        """The output of each shard in the latest step, in host memory."""
        self.gradients: dict[int, Tensor] = {}
        """The gradient of each shard's output in the latest step, in host memory."""
        self._targets: NDArray[np.generic] | None = None
        self._report_progress = trial.report_progress

    # ---- Measurements.

    def measure_workspaces(self) -> list[int]:
        """Compute a step, and return the most bytes that computing each shard takes besides its own."""
        workspace_bytes = [0] * len(self.spec.shards)
        for unit in self.units:
            live_bytes = LiveBytesMode()
            self._compute_unit(unit, live_bytes)
            workspace_bytes[unit.shard] = max(workspace_bytes[unit.shard], live_bytes.peak_bytes)
        return workspace_bytes

    def crossing_slots(self) -> tuple[CrossingSlots, ...]:
        """Return the places of the tensors between each shard and the next one, of the types of the latest step."""
        crossings = []
        for shard in range(len(self.spec.shards) - 1):
            output = _slot(self.outputs[shard], offset=0)
            gradient = _slot(self.gradients[shard], offset=align(output.num_bytes))
            crossings.append(CrossingSlots(output, gradient))
        return tuple(crossings)

    def measure_costs(self) -> tuple[Cost, ...]:
        """Compute a few steps, and return the cost of each unit: its shortest time, and that of copying its shard."""
        seconds: list[list[float]] = [[] for _ in self.units]
        for _ in range(_TIMED_STEPS):
            for unit, unit_seconds in zip(self.units, seconds, strict=True):
                self._compute_unit(unit, _append_seconds(unit_seconds))
        return tuple(
            self._cost(unit, min(unit_seconds)) for unit, unit_seconds in zip(self.units, seconds, strict=True)
        )

    def _cost(self, unit: Unit, seconds: float) -> Cost:
        """Return the cost of a unit that computes for so many `seconds`."""
        layout, host = self.spec.shards[unit.shard].layout, self.shard_bytes[unit.shard]
        needed = layout.needed_bytes(is_backward=unit.is_backward)
        changed = layout.changed_range(is_backward=unit.is_backward)
        buffer = torch.empty_like(host, device=self.device)
        load = _copy_seconds(host[:needed], buffer[:needed])
        if changed.start == changed.stop:
            return Cost(seconds=seconds, load=load, store=0.0)
        store = _copy_seconds(buffer[changed], torch.empty_like(host[changed]))
        return Cost(seconds=seconds, load=load, store=store)

    # ---- The computation of one unit.

    def _compute_unit(self, unit: Unit, measurement: AbstractContextManager[object]) -> None:
        """Compute a unit as a worker does, within the context of `measurement`."""
        host = self.shard_bytes[unit.shard]
        buffer = host.to(self.device, copy=True) if self.uses_separate_buffers else host
        with measurement:
            self._compute(unit, buffer)
            synchronize(self.device)
        if self.uses_separate_buffers and unit.is_backward:
            host.copy_(buffer)
        self._report_progress()

    def _compute(self, unit: Unit, buffer: Tensor) -> None:
        """Compute a unit, and keep what it leaves for the units after it."""
        result = UnitResult(unit=unit)
        output, features_gradient = self.model.compute(self._request(unit), result, self._inputs(unit, buffer))
        if result.targets is not None:
            self._targets = result.targets
        if output is not None:
            self.outputs[unit.shard] = output.cpu()
        if features_gradient is not None:
            self.gradients[unit.shard - 1] = features_gradient.cpu()

    def _request(self, unit: Unit) -> UnitRequest:
        """Return a request for the unit, on the first images and with a learning rate of 0."""
        return UnitRequest(
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

    def _inputs(self, unit: Unit, buffer: Tensor) -> UnitInputs:
        """Return the unit's inputs, copied to the device."""
        features = gradient = None
        if unit.shard > 0 and (unit.is_forward or not self.spec.keeps_activations):
            features = self.outputs[unit.shard - 1].to(self.device, copy=True)
        if not unit.is_forward:
            gradient = self.gradients[unit.shard].to(self.device, copy=True)
        return UnitInputs(buffer, features, gradient)


def _slot(tensor: Tensor, offset: int) -> TensorSlot:
    """Return a slot for a tensor like this one, at byte `offset`, with the strides that a copy of it has."""
    return TensorSlot(offset, tensor.dtype, tuple(tensor.shape), torch.empty_like(tensor).stride())


@contextmanager
def _append_seconds(seconds: list[float]) -> Iterator[None]:
    """Append the seconds that the context took."""
    began_at = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began_at)


def _copy_seconds(source: Tensor, target: Tensor) -> float:
    """Return how long copying `source` to `target` takes, in seconds, once both are warm."""
    copy_bytes(source, target)
    began_at = time.perf_counter()
    copy_bytes(source, target)
    return time.perf_counter() - began_at
