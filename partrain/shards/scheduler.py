"""The scheduler: which device computes which unit of which model next, in real and in simulated trainings alike.

A training step of a model cut into n shards is a chain of 2 n - 1 units, computed one after another: each shard's
forward pass, then the last shard's forward and backward pass at once, then the other shards' backward passes. Models do
not depend on one another, so a device that would wait for one model computes a unit of another.

Two steps of three models A, B and C, of two shards each, on two devices. F0 is shard 0 forward, L1 the last shard
forward and backward, B0 shard 0 backward. Every unit takes equally long, activations are
recomputed (so that a backward pass may run on another device than its forward pass), and no device ever waits:

    device 0    A.F0  C.F0  B.L1  A.B0  A.F0  C.B0  C.F0  C.L1  B.B0
    device 1    B.F0  A.L1  C.L1  B.B0  B.F0  A.L1  B.L1  A.B0  C.B0
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partrain.shards.policies import Policy, ReadyModels

_ANY_DEVICE = _NO_MODEL = -1
_NEW_TIME_WEIGHT = 0.1
"""The weight of a measured time in the moving average of a unit's seconds."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The time that a unit takes, in seconds."""

    seconds: float
    """Seconds of its computation."""
    load: float = 0.0
    """Seconds of copying its shard to the device."""
    store: float = 0.0
    """Seconds of copying what has changed of the shard back to host memory."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One shard's forward pass, backward pass, or both, in one training step of a model."""

    model_id: int
    step: int
    position: int
    """The place of the unit in its step, from 0 to 2 n - 2 for a model of n shards."""
    shard: int
    is_forward: bool
    is_backward: bool


def num_units(num_shards: int) -> int:
    """Return how many units a training step of a model of `num_shards` shards has."""
    return 2 * num_shards - 1


def unit_at(model_id: int, step: int, position: int, num_shards: int) -> Unit:
    """Return the unit at `position` of a step: positions count up to the last shard, and back to the first."""
    return Unit(
        model_id=model_id,
        step=step,
        position=position,
        shard=min(position, 2 * (num_shards - 1) - position),
        is_forward=position < num_shards,
        is_backward=position >= num_shards - 1,
    )


class _Model:
    """A model's place in its training, and the time that its units take.

    Args:
        model_id: The model's number.
        num_shards: How many shards the model is cut into.
        num_steps: How many steps the whole training has.
        unit_seconds: Seconds of each unit of a step [units].
        first_step: The step to begin at.
    """

    def __init__(
        self, model_id: int, num_shards: int, num_steps: int, unit_seconds: Sequence[float], first_step: int
    ) -> None:
        self.model_id = model_id
        self.num_shards = num_shards
        self.num_steps = num_steps
        self.unit_seconds = np.array(unit_seconds, dtype=float)
        self.step_seconds = float(sum(unit_seconds))
        self.step = first_step
        self.position = 0
        self.forward_devices = [_ANY_DEVICE] * num_shards
        """The device of each shard's latest forward pass."""

    @property
    def has_next_unit(self) -> bool:
        """Return whether any step of the training is left."""
        return self.step < self.num_steps

    @property
    def next_unit(self) -> Unit:
        """Return the unit to compute next."""
        return unit_at(self.model_id, self.step, self.position, self.num_shards)

    def unit_after(self, unit: Unit) -> Unit | None:
        """Return the unit that comes after `unit`, or None after the training's last."""
        step, position = self._place_after(unit)
        return unit_at(self.model_id, step, position, self.num_shards) if step < self.num_steps else None

    def move_past(self, unit: Unit) -> None:
        """Set the next unit to the one after `unit`."""
        self.step, self.position = self._place_after(unit)

    def _place_after(self, unit: Unit) -> tuple[int, int]:
        """Return the step and position after a unit's."""
        ends_step = unit.position + 1 == num_units(self.num_shards)
        return (unit.step + 1, 0) if ends_step else (unit.step, unit.position + 1)

    def record_seconds(self, position: int, seconds: float) -> None:
        """Add a measured time to the moving average of the unit at `position`."""
        self.unit_seconds[position] += _NEW_TIME_WEIGHT * (seconds - self.unit_seconds[position])
        self.step_seconds = self.unit_seconds.sum()

    def remaining_seconds(self) -> float:
        """Return how many seconds of computation are left of the training."""
        seconds_done = self.unit_seconds[: self.position].sum()
        return float((self.num_steps - self.step) * self.step_seconds - seconds_done)

    def depends_on(self, device: int) -> bool:
        """Return whether `device` has run a forward pass of this step whose backward pass is still to come."""
        num_forward_done = self.position
        num_backward_left = num_units(self.num_shards) - self.position
        return device in self.forward_devices[: min(num_forward_done, num_backward_left)]


class _ModelTable:
    """The facts that a device chooses a model by, one entry a model in every array [models].

    They are arrays, since the choice among a thousand models is made for every unit.
    """

    def __init__(self) -> None:
        self.is_ready = np.zeros(0, dtype=bool)
        """Whether the model has a next unit, and nothing has to happen before that can be assigned."""
        self.is_within_step = np.zeros(0, dtype=bool)
        """Whether the model has begun a step that it has not ended."""
        self.required_device = np.zeros(0, dtype=np.int64)
        """The only device that may compute the next unit, or `_ANY_DEVICE`."""
        self.ready_since = np.zeros(0, dtype=np.int64)
        self.step_seconds = np.zeros(0)
        self.remaining_seconds = np.zeros(0)

    def add(self, model: _Model, ready_since: int) -> None:
        """Add the entry of a model that begins."""
        self.is_ready = np.append(self.is_ready, model.has_next_unit)
        self.is_within_step = np.append(self.is_within_step, False)
        self.required_device = np.append(self.required_device, _ANY_DEVICE)
        self.ready_since = np.append(self.ready_since, ready_since)
        self.step_seconds = np.append(self.step_seconds, model.step_seconds)
        self.remaining_seconds = np.append(self.remaining_seconds, model.remaining_seconds())

    def update(self, model: _Model, required_device: int) -> None:
        """Bring the entry of a model up to date, whose next unit has changed."""
        row = model.model_id
        self.is_ready[row] = model.has_next_unit
        self.is_within_step[row] = model.position > 0
        self.required_device[row] = required_device
        self.step_seconds[row] = model.step_seconds
        self.remaining_seconds[row] = model.remaining_seconds()

    def can_run_on(self, device: int) -> NDArray[np.bool_]:
        """Return whether each model's next unit may be computed on `device` [models]."""
        return (self.required_device == device) | (self.required_device == _ANY_DEVICE)


class Scheduler:
    """A scheduler, which assigns units of models to devices, as a policy chooses.

    Args:
        num_devices: How many devices there are.
        policy: The choice among models that are ready.
        pins_backward: Whether a shard's backward pass must run on the device of its forward pass, because the
            activations are there.
        double_buffer: Whether a device may have a second unit assigned, whose shard it copies in while it computes the
            first.
    """

    def __init__(
        self,
        num_devices: int,
        policy: Policy,
        *,
        pins_backward: bool,
        double_buffer: bool = True,
    ) -> None:
        self.policy = policy
        self.pins_backward = pins_backward
        self.queued: list[list[Unit]] = [[] for _ in range(num_devices)]
        """The units that each device computes (the first) and has assigned next (the second)."""
        self.reserved: set[int] = set()
        """The devices that begin no model's step, since they are to try the cuts of a model that is to join."""
        self.is_draining = False
        """Whether no new steps begin, so that training stops once those under way have ended."""
        self._max_queued = 2 if double_buffer else 1
        self._models: list[_Model] = []
        self._table = _ModelTable()
        self._suspended: set[int] = set()
        self._last_units: list[Unit | None] = [None] * num_devices
        """The unit that each device was assigned last, whose shard is likely to be on it."""
        self._clock = 0

    # ---- Models join, pause and leave.

    def add(self, num_shards: int, num_steps: int, unit_seconds: Sequence[float], first_step: int = 0) -> int:
        """Add a model and return its number.

        Args:
            num_shards: How many shards the model is cut into.
            num_steps: How many steps its whole training has.
            unit_seconds: The expected seconds of each unit of a step [units].
            first_step: The step to begin at.
        """
        assert len(unit_seconds) == num_units(num_shards)
        model = _Model(len(self._models), num_shards, num_steps, unit_seconds, first_step)
        self._models.append(model)
        self._table.add(model, ready_since=self._tick())
        return model.model_id

    def remove(self, model_id: int) -> None:
        """Remove a model, with the units of it that are assigned."""
        self._suspended.discard(model_id)
        self._models[model_id].position = 0  # No device holds activations of it any more.
        self._table.is_ready[model_id] = False
        self._table.remaining_seconds[model_id] = 0.0
        self.queued = [[unit for unit in units if unit.model_id != model_id] for units in self.queued]

    def remove_all(self) -> None:
        """Remove all models, and reserve no device any more."""
        for model in self._models:
            self.remove(model.model_id)
        self.reserved.clear()

    def restart(self, model_id: int, step: int) -> None:
        """Let a model continue from the beginning of `step`."""
        self.remove(model_id)
        self._models[model_id].step = step
        self._table.update(self._models[model_id], _ANY_DEVICE)

    def suspend(self, model_id: int) -> None:
        """Assign no unit of a model until `resume` is called."""
        self._suspended.add(model_id)
        self._table.is_ready[model_id] = False

    def resume(self, model_id: int) -> None:
        """Assign units of a suspended model again."""
        self._suspended.discard(model_id)
        self._table.is_ready[model_id] = self._models[model_id].has_next_unit

    def set_num_steps(self, model_id: int, num_steps: int) -> None:
        """Set how many steps a model's whole training has, since training may stop early."""
        model = self._models[model_id]
        if num_steps == model.num_steps:
            return
        model.num_steps = num_steps
        self._table.remaining_seconds[model_id] = model.remaining_seconds()
        self._table.is_ready[model_id] &= model.has_next_unit

    # ---- Units are assigned and completed.

    def assign(self) -> list[tuple[int, Unit]]:
        """Assign units to devices, and return the new (device, unit) pairs, idle devices first.

        A unit is queued behind another only if as many models are ready as there are devices. Otherwise it might keep a
        device idle that becomes free earlier.
        """
        assigned = []
        for num_queued in range(self._max_queued):
            num_available = int(self._is_available().sum())
            num_needed = len(self.queued) if num_queued else 1
            if num_available < num_needed:
                break
            for device, units in enumerate(self.queued):
                if num_available == 0:
                    break
                if len(units) != num_queued:
                    continue
                model_id = self._choose_model(device)
                if model_id is not None:
                    assigned.append((device, self._assign_next_unit(model_id, device)))
                    num_available -= 1
        return assigned

    def complete(self, device: int, unit: Unit, seconds: float | None = None) -> None:
        """Record that `device` has computed a unit, in `seconds` unless that is unknown."""
        self.queued[device].remove(unit)
        model = self._models[unit.model_id]
        if seconds is not None:
            model.record_seconds(unit.position, seconds)
        model.move_past(unit)
        self._table.update(model, self._required_device(model.next_unit))
        self._table.ready_since[unit.model_id] = self._tick()

    def next_to_prefetch(self, device: int) -> Unit | None:
        """Return the unit whose shard `device` should copy in, if it has nothing queued behind its unit.

        It is the unit that follows in the same model, unless that needs the same shard.
        """
        units = self.queued[device]
        if len(units) != 1:
            return None
        successor = self._successor(device)
        return None if successor is None or successor.shard == units[0].shard else successor

    def lose_device(self, device: int) -> list[int]:
        """Forget all that a lost device held, and return the models that must go back to a checkpoint."""
        lost = {unit.model_id for unit in self.queued[device]}
        if self.pins_backward:
            lost.update(model.model_id for model in self._models if model.depends_on(device))
        self.queued[device] = []
        self._last_units[device] = None
        return sorted(lost)

    # ---- Questions about the schedule.

    def has_work(self) -> bool:
        """Return whether any unit is assigned or can be, or any model is suspended."""
        return bool(self._is_available().any()) or any(self.queued) or bool(self._suspended)

    def is_free(self, device: int) -> bool:
        """Return whether no unit is assigned to `device`, and no model's step can only be ended there."""
        return not self.queued[device] and not any(self._depends_on(device))

    def is_queued(self, model_id: int) -> bool:
        """Return whether a unit of the model is assigned to any device."""
        return any(unit.model_id == model_id for units in self.queued for unit in units)

    def next_unit(self, model_id: int) -> Unit:
        """Return the unit of the model to compute next."""
        return self._models[model_id].next_unit

    def unit_seconds(self, model_id: int) -> NDArray[np.float64]:
        """Return the seconds of each unit of a step of the model [units], as measured so far."""
        return self._models[model_id].unit_seconds

    def remaining_seconds(self) -> float:
        """Return how many seconds of computation are left of all models together."""
        return float(self._table.remaining_seconds.sum())

    # ---- The choice of a model.

    def _depends_on(self, device: int) -> list[bool]:
        """Return whether each model's step can only be ended with `device` [models]."""
        return [self.pins_backward and model.depends_on(device) for model in self._models]

    def _is_available(self) -> NDArray[np.bool_]:
        """Return which models a unit may be assigned of [models]."""
        if self.is_draining:
            return self._table.is_ready & self._table.is_within_step
        return self._table.is_ready

    def _choose_model(self, device: int) -> int | None:
        """Return the model that `device` computes a unit of next.

        None means that no model is ready for the device, or that the policy prefers to wait for the model whose unit the
        device computes now.
        """
        table = self._table
        can_run = self._is_available() & table.can_run_on(device)
        if device in self.reserved:
            can_run &= self._depends_on(device)
        model_ids = np.flatnonzero(can_run)
        if not len(model_ids):
            return None
        ready = ReadyModels(
            remaining_seconds=table.remaining_seconds[model_ids],
            step_seconds=table.step_seconds[model_ids],
            ready_since=table.ready_since[model_ids],
            is_resident=model_ids == self._resident_model(device),
        )
        successor = self._successor(device)
        if successor is not None:
            ready = self._with_successor(ready, self.queued[device][0], successor)
        choice = self.policy.choose(ready)
        return int(model_ids[choice]) if choice < len(model_ids) else None

    def _resident_model(self, device: int) -> int:
        """Return the model whose next shard is likely to be on `device` still, or `_NO_MODEL`."""
        last_unit = self._last_units[device]
        if last_unit is None or self.next_unit(last_unit.model_id).shard != last_unit.shard:
            return _NO_MODEL
        return last_unit.model_id

    def _with_successor(self, ready: ReadyModels, unit: Unit, successor: Unit) -> ReadyModels:
        """Return `ready` with one more entry: the model of `unit`, as it will be once that is computed."""
        model = self._models[unit.model_id]
        remaining = self._table.remaining_seconds[unit.model_id] - model.unit_seconds[unit.position]
        return ReadyModels(
            remaining_seconds=np.append(ready.remaining_seconds, remaining),
            step_seconds=np.append(ready.step_seconds, model.step_seconds),
            ready_since=np.append(ready.ready_since, self._clock + 1),
            is_resident=np.append(ready.is_resident, successor.shard == unit.shard),
        )

    def _successor(self, device: int) -> Unit | None:
        """Return the unit that follows in its model on the one that `device` computes, if it may run there too."""
        if not self.queued[device]:
            return None
        unit = self.queued[device][0]
        successor = self._models[unit.model_id].unit_after(unit)
        if successor is None or (self.is_draining and successor.position == 0):
            return None
        return successor if self._required_device(successor) in (device, _ANY_DEVICE) else None

    def _required_device(self, unit: Unit) -> int:
        """Return the only device that may compute a unit, or `_ANY_DEVICE`."""
        if not self.pins_backward or unit.is_forward:
            return _ANY_DEVICE
        return self._models[unit.model_id].forward_devices[unit.shard]

    def _assign_next_unit(self, model_id: int, device: int) -> Unit:
        """Queue the model's next unit on `device`, and return it."""
        unit = self.next_unit(model_id)
        self.queued[device].append(unit)
        self._last_units[device] = unit
        self._table.is_ready[model_id] = False
        if unit.is_forward:
            self._models[model_id].forward_devices[unit.shard] = device
        return unit

    def _tick(self) -> int:
        """Advance the counter that orders models by when they became ready."""
        self._clock += 1
        return self._clock
