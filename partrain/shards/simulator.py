"""A discrete-event simulation of shard parallelism: the scheduler of real runs, driven by costs instead of workers.

It predicts, before anybody pays for it, how long a sharded training takes on other devices or under another policy.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from partrain import checks
from partrain.errors import UserError
from partrain.shards.policies import Policy
from partrain.shards.scheduler import Cost, Scheduler, Unit
from partrain.storage import checkpoint


@dataclass(frozen=True, kw_only=True)
class Load:
    """A model to train in a simulation: the costs of one step's units, and the number of steps.

    Raises:
        UserError: If the number of units is even. A step of n shards has 2 n - 1 units.
    """

    units: tuple[Cost, ...]
    """The units of a step in their order: all shards but the last forward, the last one both ways, the others backward."""
    steps: int
    """Optimiser steps to train for."""

    def __post_init__(self) -> None:
        if len(self.units) % 2 == 0:
            raise UserError(
                f"A step of n shards has 2 n - 1 units, which is an odd number; got {len(self.units)} units"
            )

    @property
    def num_shards(self) -> int:
        """Return how many shards the model is cut into."""
        return (len(self.units) + 1) // 2

    @property
    def seconds(self) -> float:
        """Return the seconds of computation that all steps take together, without copies."""
        return self.steps * sum(unit.seconds for unit in self.units)

    @property
    def critical_path(self) -> float:
        """Return the seconds that training this model alone takes at least, on any number of devices.

        Units of a model run one after another, and every unit's shard is copied back before the next unit starts.
        Shards may be copied in early, all but the first one.
        """
        return self.seconds + self.units[0].load + self.steps * sum(unit.store for unit in self.units)


class SimulatedUnit(NamedTuple):
    """A unit in a simulation: on which device it was computed, and from when to when."""

    device: int
    unit: Unit
    begin: float
    """Seconds since the start of the training."""
    end: float
    """Seconds since the start of the training."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The result of a simulation: how long the training takes, and which device computes which unit when."""

    makespan: float
    """Seconds from the start of the first copy to a device until the last shard is copied back."""
    busy: float
    """The part of the makespan for which a device computes, averaged over devices, from 0 to 1."""
    lower_bound: float
    """Seconds that no schedule can take less than."""
    timeline: tuple[SimulatedUnit, ...]
    """All units, in the order in which they were assigned."""


def critical_path(loads: Sequence[Load]) -> float:
    """Return the longest critical path of all `loads`, in seconds. No number of devices is faster."""
    return max(load.critical_path for load in loads)


def equal_share(loads: Sequence[Load], devices: int) -> float:
    """Return the seconds of computation per device if `devices` devices shared all of it equally."""
    return sum(load.seconds for load in loads) / devices


def lower_bound(loads: Sequence[Load], devices: int) -> float:
    """Return the seconds that no schedule on `devices` devices can take less than."""
    return max(critical_path(loads), equal_share(loads, devices))


def simulate(
    loads: Sequence[Load],
    devices: int,
    policy: Policy,
    *,
    pins_backward: bool = True,
    double_buffer: bool = True,
) -> Simulation:
    """Simulate the sharded training of all `loads` at once.

    Messages between scheduler and workers take no time in a simulation.

    Args:
        loads: The models, at least one.
        devices: How many devices there are, at least 1.
        policy: Chooses the model that a device computes next.
        pins_backward: Whether a shard's backward pass has to run on the device of its forward pass. That is so where
            activations are kept, not where they are recomputed.
        double_buffer: Whether a device copies one shard in and another one out while it computes a third.

    Raises:
        UserError: If there is no model or no device.
    """
    if not loads:
        raise UserError("There is no model to simulate; give at least one load")
    checks.at_least("devices", devices, 1)

    scheduler = Scheduler(devices, policy, pins_backward=pins_backward, double_buffer=double_buffer)
    for load in loads:
        scheduler.add(load.num_shards, load.steps, [unit.seconds for unit in load.units])
    simulator = _Simulator(loads, scheduler, devices, double_buffer=double_buffer)
    makespan = simulator.run()

    computed = sum(unit.end - unit.begin for unit in simulator.timeline)
    return Simulation(
        makespan=makespan,
        busy=computed / (devices * makespan),
        lower_bound=lower_bound(loads, devices),
        timeline=tuple(simulator.timeline),
    )


class _Simulator:
    """A run of the scheduler in simulated time.

    Args:
        loads: The models that `scheduler` has, in the same order.
        scheduler: Decides which device computes which unit.
        devices: How many devices the scheduler has.
        double_buffer: Whether devices copy while they compute.
    """

    def __init__(self, loads: Sequence[Load], scheduler: Scheduler, devices: int, *, double_buffer: bool) -> None:
        self.loads, self.scheduler, self.double_buffer = loads, scheduler, double_buffer
        self.devices = [_SimulatedDevice(double_buffer=double_buffer) for _ in range(devices)]
        self.timeline: list[SimulatedUnit] = []
        self._events: list[tuple[float, int, int, Unit]] = []
        """A heap of units under way: the second in which the unit is stored, its place in `timeline`, device and unit."""

    def run(self) -> float:
        """Simulate until every unit is done, and return the makespan in seconds."""
        # Time jumps from one event to the next. An event is a unit whose shard has been copied back:
        #
        #   ┌─▶ assign units ─▶ prefetch shards where queues changed ─▶ jump to the next event ─▶ finish its unit ─┐
        #   └────────────────────────────────────────────────────────────────────────────────────────────────────┘
        now = 0.0
        changed_devices = set(range(len(self.devices)))
        while True:
            changed_devices |= self._assign_units(now)
            if self.double_buffer:
                self._prefetch(sorted(changed_devices), now)

            if not self._events:
                return now
            now, _, device, unit = heapq.heappop(self._events)
            self.scheduler.complete(device, unit)
            changed_devices = {device}

    def _assign_units(self, now: float) -> set[int]:
        """Compute the units that the scheduler assigns now, and return their devices."""
        assigned = set()
        for device, unit in self.scheduler.assign():
            cost = self._cost(unit)
            begin, end = self.devices[device].compute(unit, cost, now)
            self.timeline.append(SimulatedUnit(device, unit, begin, end))
            heapq.heappush(self._events, (end + cost.store, len(self.timeline), device, unit))
            assigned.add(device)
        return assigned

    def _prefetch(self, devices: Iterable[int], now: float) -> None:
        """Copy in the shard that each of `devices` is expected to need next."""
        for device in devices:
            unit = self.scheduler.next_to_prefetch(device)
            if unit is not None:
                self.devices[device].copy_in(unit, self._cost(unit), now)

    def _cost(self, unit: Unit) -> Cost:
        return self.loads[unit.model_id].units[unit.position]


class _SimulatedDevice:
    """A device in simulated time. It holds the shard that it computes and, with double buffering, the next one.

    Args:
        double_buffer: Whether it copies while it computes.
    """

    def __init__(self, *, double_buffer: bool) -> None:
        self.double_buffer = double_buffer
        self.compute_free_at = 0.0
        """The second from which on it can compute the next unit."""
        self.copied_at = 0.0
        """The second in which the latest copy to the device ends."""
        self.latest_shard: tuple[int, int] | None = None
        """Model and shard that were copied in last."""

    def compute(self, unit: Unit, cost: Cost, now: float) -> tuple[float, float]:
        """Compute the unit as soon as its shard is copied in, and return in which seconds that begins and ends."""
        self.copy_in(unit, cost, now)
        begin = max(now, self.copied_at, self.compute_free_at)
        end = begin + cost.seconds
        self.compute_free_at = end if self.double_buffer else end + cost.store
        return begin, end

    def copy_in(self, unit: Unit, cost: Cost, now: float) -> None:
        """Copy the unit's shard to the device, unless it was copied there last."""
        shard = (unit.model_id, unit.shard)
        if self.latest_shard == shard:
            return
        can_copy_from = self.copied_at if self.double_buffer else self.compute_free_at
        self.copied_at = max(now, can_copy_from) + cost.load
        self.latest_shard = shard


def write_loads(path: Path, loads: Sequence[Load]) -> None:
    """Write the measured costs of a sharded training to `path`, as JSON that `read_loads` reads."""
    checkpoint.write_json(path, [asdict(load) for load in loads])


def read_loads(path: str | Path) -> list[Load]:
    """Return the loads that a sharded training measured and wrote to its costs.json.

    Args:
        path: The file, `costs.json` in the folder of the sharded training.

    Raises:
        DamagedFile: If the file does not hold such costs.
        FileNotFoundError: If there is no such file.
    """
    stored: Any = checkpoint.read_json(Path(path))
    try:
        return [_load(entry) for entry in stored]
    except (TypeError, KeyError, ValueError):
        raise checkpoint.DamagedFile(
            f"{path} is damaged: it does not hold the costs of a sharded training; give another training's costs.json"
        ) from None


def _load(entry: Any) -> Load:
    return Load(units=tuple(Cost(**unit) for unit in entry["units"]), steps=entry["steps"])
