"""How long a sharded training would take: the scheduler of real runs, driven by costs instead of workers."""

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partrain.errors import UserError
from partrain.shards.policies import Policy
from partrain.shards.scheduler import Cost, Scheduler, Unit
from partrain.storage import checkpoint


@dataclass(frozen=True, kw_only=True)
class Load:
    """A model to be trained: the costs of the units of a step, and how many steps."""

    units: tuple[Cost, ...]
    steps: int

    def __post_init__(self) -> None:
        if len(self.units) % 2 == 0:
            raise UserError(f"a step of n shards has 2 n - 1 units, there are {len(self.units)}")

    @property
    def shards(self) -> int:
        return (len(self.units) + 1) // 2

    @property
    def seconds(self) -> float:
        """Of all computation."""
        return self.steps * sum(unit.seconds for unit in self.units)

    @property
    def path(self) -> float:
        """Seconds that the training takes at least, were it alone: shards may be on a device before they are needed."""
        return self.seconds + self.units[0].load + self.steps * sum(unit.store for unit in self.units)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """`busy`: how much of their time the devices compute, from 0 to 1. `lower_bound`: seconds that no schedule is under."""

    makespan: float
    busy: float
    lower_bound: float
    timeline: tuple[tuple[int, Unit, float, float], ...]  # device, unit, from when to when


def critical_path(loads: Sequence[Load]) -> float:
    """The longest model's own chain of units, in seconds: no number of devices is faster."""
    return max(load.path for load in loads)


def equal_share(loads: Sequence[Load], devices: int) -> float:
    """Of all computation, in seconds: so many devices are not faster."""
    return sum(load.seconds for load in loads) / devices


def lower_bound(loads: Sequence[Load], devices: int) -> float:
    """Seconds that no schedule is under."""
    return max(critical_path(loads), equal_share(loads, devices))


def simulate(
    loads: Sequence[Load], devices: int, policy: Policy, *, pins_backward: bool = True, double_buffer: bool = True
) -> Simulation:
    """Train `loads` on as many `devices`, as the scheduler would. `pins_backward`: see `Scheduler`.

    Raises:
        ValueError: there is no model or no device.
    """
    if not loads:
        raise UserError("there is no model to simulate; give at least one")
    if devices < 1:
        raise UserError(f"devices={devices} must be at least 1")
    scheduler = Scheduler(devices, policy, pins_backward=pins_backward, double_buffer=double_buffer)
    for load in loads:
        scheduler.add(load.shards, load.steps, [unit.seconds for unit in load.units])
    simulated = [_Device(double_buffer) for _ in range(devices)]
    events: list[tuple[float, int, int, Unit]] = []
    timeline: list[tuple[int, Unit, float, float]] = []
    now, changed = 0.0, set(range(devices))  # devices whose units have changed
    while True:
        for device, unit in scheduler.assign():
            changed.add(device)
            cost = loads[unit.model_id].units[unit.position]
            begin, end = simulated[device].compute(unit, cost, now)
            timeline.append((device, unit, begin, end))
            heapq.heappush(events, (end + cost.store, len(timeline), device, unit))
        for device in sorted(changed) if double_buffer else ():
            if (ahead := scheduler.next_to_prefetch(device)) is not None:
                simulated[device].fetch(ahead, loads[ahead.model_id].units[ahead.position], now)
        if not events:
            break
        now, _, device, unit = heapq.heappop(events)
        scheduler.complete(device, unit)
        changed = {device}
    computed = sum(end - begin for _, _, begin, end in timeline)
    return Simulation(
        makespan=now,
        busy=computed / (devices * now),
        lower_bound=lower_bound(loads, devices),
        timeline=tuple(timeline),
    )


class _Device:
    """A device's time: `free` to compute from then on, and to copy from `copied` on. It holds one shard besides."""

    def __init__(self, double_buffer: bool) -> None:
        self.double_buffer = double_buffer
        self.free = self.copied = 0.0
        self.resident: tuple[int, int] | None = None  # model and shard

    def fetch(self, unit: Unit, cost: Cost, now: float) -> None:
        """Copy the unit's shard in, unless it is there."""
        if self.resident != (unit.model_id, unit.shard):
            self.copied = max(now, self.copied if self.double_buffer else self.free) + cost.load
            self.resident = (unit.model_id, unit.shard)

    def compute(self, unit: Unit, cost: Cost, now: float) -> tuple[float, float]:
        """From when to when the unit is computed."""
        self.fetch(unit, cost, now)
        begin = max(now, self.copied, self.free)
        end = begin + cost.seconds
        self.free = end if self.double_buffer else end + cost.store
        return begin, end


def write_loads(path: Path, loads: Sequence[Load]) -> None:
    """Keep the costs of a run, for `read_loads`."""
    checkpoint.write_json(path, [asdict(load) for load in loads])


def read_loads(path: str | Path) -> list[Load]:
    """The costs that a run has left (costs.json).

    Raises:
        DamagedFile, FileNotFoundError: there are none in `path`.
    """
    stored: Any = checkpoint.read_json(Path(path))
    try:
        return [Load(units=tuple(Cost(**unit) for unit in each["units"]), steps=each["steps"]) for each in stored]
    except (TypeError, KeyError, ValueError):
        raise checkpoint.DamagedFile(f"{path} is damaged: it does not hold the costs of a sharded training") from None
