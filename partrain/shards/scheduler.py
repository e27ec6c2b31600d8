"""Who computes what next: the models, the order of their units, and the devices; the same for real runs and simulated ones.

A model's step is a chain of units, one at a time: every shard forward, the last one forward and backward at once, then the
others backward. Models do not depend on one another, so a device that would wait for one takes up another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partrain.shards.policies import Policy, ReadyModels


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a unit: its computation, and copying its shard to the device (`load`) and back (`store`)."""

    seconds: float
    load: float = 0.0
    store: float = 0.0


@dataclass(frozen=True)
class Unit:
    """Number `position` of the units of a step of `model_id`."""

    model_id: int
    step: int
    position: int
    shard: int
    is_forward: bool
    is_backward: bool


def num_units(shards: int) -> int:
    """Of a step."""
    return 2 * shards - 1


def unit_at(model: int, step: int, position: int, shards: int) -> Unit:
    shard = min(position, 2 * (shards - 1) - position)
    return Unit(model, step, position, shard, position < shards, position >= shards - 1)


class Scheduler:
    """Deals units of models out to `devices`, at most two to each: one to compute, and one to have ready.

    `pins_backward`: whether a shard's backward pass must be where its forward pass was. `average`: how much a
    measured time counts
    against those before it.
    """

    def __init__(
        self, devices: int, policy: Policy, *, pins_backward: bool, double_buffer: bool = True, average: float = 0.1
    ) -> None:
        self.policy, self.pins_backward, self._average = policy, pins_backward, average
        self._at_once = 2 if double_buffer else 1
        self.queued: list[list[Unit]] = [[] for _ in range(devices)]
        self._latest: list[tuple[int, int] | None] = [None] * devices  # model and shard
        self._shards: list[int] = []
        self._steps: list[int] = []  # of the whole training
        self._next: list[tuple[int, int]] = []  # step, position
        self._homes: list[list[int]] = []  # the device of each shard's forward pass
        self._seconds: list[NDArray[np.float64]] = []  # of each unit of a step
        self._held: set[int] = set()
        self.is_draining = False  # no step is begun any more
        self._clock = 0
        self._ready = np.zeros(0, dtype=bool)
        self._begun = np.zeros(0, dtype=bool)  # whether the step is under way
        self._tied = np.zeros(0, dtype=np.int64)
        self._since = np.zeros(0, dtype=np.int64)
        self._step = np.zeros(0)
        self._remaining = np.zeros(0)

    def add(self, shards: int, steps: int, seconds: Sequence[float], first: int = 0) -> int:
        """A model joins, whose steps from `first` on are to be done, `seconds` each unit of them; returns its number."""
        assert len(seconds) == num_units(shards)
        number = len(self._shards)
        self._shards.append(shards)
        self._steps.append(steps)
        self._next.append((first, 0))
        self._homes.append([-1] * shards)
        self._seconds.append(np.array(seconds, dtype=float))
        self._ready = np.append(self._ready, first < steps)
        self._begun = np.append(self._begun, False)
        self._tied = np.append(self._tied, -1)
        self._since = np.append(self._since, self._tick())
        self._step = np.append(self._step, sum(seconds))
        self._remaining = np.append(self._remaining, (steps - first) * sum(seconds))
        return number

    def remove(self, model: int) -> None:
        """The model leaves; what of it is under way no longer counts."""
        self._ready[model] = False
        self._held.discard(model)
        self._remaining[model] = 0.0
        self._next[model] = (self._next[model][0], 0)  # nothing of it is kept on any device
        self.queued = [[unit for unit in units if unit.model_id != model] for units in self.queued]

    def restart(self, model: int, step: int) -> None:
        """The model goes on from the beginning of `step`."""
        self.remove(model)
        self._next[model], self._tied[model], self._begun[model] = (step, 0), -1, False
        self._remaining[model] = (self._steps[model] - step) * self._step[model]
        self._ready[model] = step < self._steps[model]

    def suspend(self, model: int) -> None:
        """Nothing of the model is dealt until it is let go."""
        self._held.add(model)
        self._ready[model] = False

    def resume(self, model: int) -> None:
        self._held.discard(model)
        self._ready[model] = self._next[model][0] < self._steps[model]

    def lose_device(self, device: int) -> list[int]:
        """A device has lost all that it held; returns the models that cannot go on from where they are."""
        lost = {unit.model_id for unit in self.queued[device]}
        if self.pins_backward:
            for model, homes in enumerate(self._homes):
                position = self._next[model][1]
                back = num_units(len(homes)) - position  # shards from this one on have been backward
                if device in homes[: min(position, back)]:
                    lost.add(model)
        self.queued[device] = []
        self._latest[device] = None
        return sorted(lost)

    def set_num_steps(self, model: int, steps: int) -> None:
        """The model's training is to have so many steps, as it may end early."""
        if steps != self._steps[model]:
            self._steps[model] = steps
            step, position = self._next[model]
            self._remaining[model] = (steps - step) * self._step[model] - self._seconds[model][:position].sum()
            self._ready[model] &= step < steps

    def unit_seconds(self, model: int) -> NDArray[np.float64]:
        """Of each unit of a step, as measured so far."""
        return self._seconds[model]

    def remaining_seconds(self) -> float:
        """Of all models' units together."""
        return float(self._remaining.sum())

    def assign(self) -> list[tuple[int, Unit]]:
        """Devices and what each is to do next, idle ones first.

        A unit waits behind another only where there are as many models ready as devices, as it might keep one idle, and
        only if the policy would not rather have the model go on that is being computed there.
        """
        dealt = []
        for waiting in range(self._at_once):
            num_open = int(self._open().sum())
            if num_open < (len(self.queued) if waiting else 1):
                break
            for device, units in enumerate(self.queued):
                if num_open == 0:
                    break
                if len(units) == waiting and (model := self._choose(device)) is not None:
                    units.append(self._take(model, device))
                    dealt.append((device, units[-1]))
                    num_open -= 1
        return dealt

    def _choose(self, device: int) -> int | None:
        """The model that `device` is to take up; None: none, or it is to wait for the one that it computes."""
        numbers = np.flatnonzero(self._open() & ((self._tied == device) | (self._tied < 0)))
        if not len(numbers):
            return None
        latest = self._latest[device]
        near = latest[0] if latest and self.next_unit(latest[0]).shard == latest[1] else -1
        remaining, since, resident = self._remaining[numbers], self._since[numbers], numbers == near
        computing = next(iter(self.queued[device]), None)
        if computing is not None and (following := self._behind(computing, device)):
            numbers = np.append(numbers, computing.model_id)
            left = self._remaining[computing.model_id] - self._seconds[computing.model_id][computing.position]
            remaining, since = np.append(remaining, left), np.append(since, self._clock + 1)
            resident = np.append(resident, following.shard == computing.shard)
        chosen = int(numbers[self.policy.choose(ReadyModels(remaining, self._step[numbers], since, resident))])
        return None if computing is not None and chosen == computing.model_id else chosen

    def next_to_prefetch(self, device: int) -> Unit | None:
        """What a device with nothing else to do next is likely to: what follows on the unit that it computes."""
        units = self.queued[device]
        following = self._behind(units[0], device) if len(units) == 1 else None
        return None if following is None or following.shard == units[0].shard else following

    def _behind(self, unit: Unit, device: int) -> Unit | None:
        """What its model does after `unit`, if there is anything, and `device` could do it."""
        step, position = self._after(unit)
        if step >= self._steps[unit.model_id] or (self.is_draining and position == 0):
            return None
        following = unit_at(unit.model_id, step, position, self._shards[unit.model_id])
        elsewhere = (
            self.pins_backward and not following.is_forward and self._homes[unit.model_id][following.shard] != device
        )
        return None if elsewhere else following

    def _after(self, unit: Unit) -> tuple[int, int]:
        """Step and position of a model's next unit."""
        last = unit.position + 1 == num_units(self._shards[unit.model_id])
        return (unit.step + 1, 0) if last else (unit.step, unit.position + 1)

    def _take(self, model: int, device: int) -> Unit:
        unit = self.next_unit(model)
        self._ready[model] = False
        self._latest[device] = (model, unit.shard)
        if unit.is_forward:
            self._homes[model][unit.shard] = device
        return unit

    def _open(self) -> NDArray[np.bool_]:
        """Which models can be taken up."""
        return self._ready & self._begun if self.is_draining else self._ready

    def next_unit(self, model: int) -> Unit:
        return unit_at(model, *self._next[model], self._shards[model])

    def complete(self, device: int, unit: Unit, seconds: float | None = None) -> None:
        """The unit is done, and took `seconds`; the model's next one is ready, if any is left."""
        self.queued[device].remove(unit)
        model, costs = unit.model_id, self._seconds[unit.model_id]
        if seconds is not None:
            costs[unit.position] += self._average * (seconds - costs[unit.position])
            self._step[model] = costs.sum()
        self._next[model] = step, position = self._after(unit)
        left = self._steps[model] - step
        self._remaining[model] = left * self._step[model] - costs[:position].sum()
        self._ready[model], self._begun[model] = left > 0, position > 0
        self._since[model] = self._tick()
        following = self.next_unit(model)
        self._tied[model] = (
            self._homes[model][following.shard] if self.pins_backward and not following.is_forward else -1
        )

    def has_work(self) -> bool:
        """Whether any unit is under way or ready, or any model held."""
        return bool(self._open().any()) or any(self.queued) or bool(self._held)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
