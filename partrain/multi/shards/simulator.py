"""How long a sharded training would take: the scheduler of real runs, driven by costs instead of workers."""

import heapq
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from partrain.multi.shards.policies import Policy
from partrain.multi.shards.scheduler import Cost, Scheduler, Unit


@dataclass(frozen=True, kw_only=True)
class Load:
    """A model to be trained: the costs of the units of a step, and how many steps."""

    units: tuple[Cost, ...]
    steps: int

    def __post_init__(self) -> None:
        if len(self.units) % 2 == 0:
            raise ValueError(f"a step of n shards has 2 n - 1 units, there are {len(self.units)}")

    @property
    def shards(self) -> int:
        return (len(self.units) + 1) // 2

    @property
    def seconds(self) -> float:
        """Of all computation."""
        return self.steps * sum(unit.seconds for unit in self.units)

    @property
    def path(self) -> float:
        """Seconds of the whole training, were it alone: what it copies in while it computes takes no time of its own."""
        shown = sum(max(0.0, unit.load - before.seconds - before.store) for before, unit in pairwise(self.units))
        return self.seconds + self.units[0].load + self.steps * (shown + sum(unit.store for unit in self.units))


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """`busy`: how much of their time the devices compute, from 0 to 1. `lower_bound`: seconds that no schedule is under."""

    makespan: float
    busy: float
    lower_bound: float
    timeline: tuple[tuple[int, Unit, float, float], ...]  # device, unit, from when to when


def lower_bound(loads: Sequence[Load], devices: int) -> float:
    """The critical path, which is the longest model's, or an equal share of all computation: whichever is more. Seconds."""
    return max(max(load.path for load in loads), sum(load.seconds for load in loads) / devices)


def simulate(
    loads: Sequence[Load], devices: int, policy: Policy, ties: bool = True, double_buffer: bool = True
) -> Simulation:
    """Train `loads` on as many `devices`, as the scheduler would. `ties`: see `Scheduler`.

    Raises:
        ValueError: there is no model or no device.
    """
    if not loads:
        raise ValueError("there is no model to simulate; give at least one")
    if devices < 1:
        raise ValueError(f"devices={devices} must be at least 1")
    scheduler = Scheduler(devices, policy, ties, double_buffer)
    for load in loads:
        scheduler.add(load.shards, load.steps, [unit.seconds for unit in load.units])
    free, copied = [0.0] * devices, [0.0] * devices  # when a device can compute, and copy
    resident: list[tuple[int, int] | None] = [None] * devices
    events: list[tuple[float, int, int, Unit]] = []
    timeline: list[tuple[int, Unit, float, float]] = []
    now, computed = 0.0, 0.0
    while True:
        for device, unit in scheduler.deal():
            cost = loads[unit.model].units[unit.position]
            if resident[device] != (unit.model, unit.shard):
                copied[device] = max(now, copied[device] if double_buffer else free[device]) + cost.load
            start = max(now, copied[device], free[device])
            end = start + cost.seconds
            free[device] = end if double_buffer else end + cost.store
            resident[device] = (unit.model, unit.shard)
            computed += cost.seconds
            timeline.append((device, unit, start, end))
            heapq.heappush(events, (end + cost.store, len(timeline), device, unit))
        for device in range(devices) if double_buffer else ():
            if (unit_ahead := scheduler.awaited(device)) and resident[device] != (unit_ahead.model, unit_ahead.shard):
                copied[device] = max(now, copied[device]) + loads[unit_ahead.model].units[unit_ahead.position].load
                resident[device] = (unit_ahead.model, unit_ahead.shard)
        if not events:
            break
        now, _, device, unit = heapq.heappop(events)
        scheduler.finish(device, unit)
    return Simulation(
        makespan=now,
        busy=computed / (devices * now),
        lower_bound=lower_bound(loads, devices),
        timeline=tuple(timeline),
    )


def write_loads(path: Path, loads: Sequence[Load]) -> None:
    """Keep the costs of a run, for `read_loads`."""
    path.write_text(json.dumps([asdict(load) for load in loads], indent=2) + "\n")


def read_loads(path: Path) -> list[Load]:
    """The costs that a run has left (costs.json)."""
    return [
        Load(units=tuple(Cost(**unit) for unit in each["units"]), steps=each["steps"])
        for each in json.loads(path.read_text())
    ]
