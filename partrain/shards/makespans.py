"""How long recorded costs would take on other devices: to plan a sharded training before it is paid for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.table import Table

from partrain import checks
from partrain.console import console
from partrain.errors import UserError
from partrain.report.formatting import format_duration
from partrain.report.tables import write_csv
from partrain.shards.policies import POLICIES
from partrain.shards.simulator import Load, critical_path, equal_share, read_loads, simulate


@dataclass(kw_only=True)
class SimulateSettings:
    """The settings of a simulation: which recorded models to train, on which devices."""

    costs: str = ""
    """The file costs.json that a sharded training left in its folder; it must be given."""
    devices: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Numbers of devices to simulate, 1 or more."""
    policies: list[str] = field(default_factory=lambda: ["longest_remaining"])
    """Policies to simulate on each number of devices: longest_remaining, fifo or random."""
    copies: int = 1
    """Copies of every recorded model that are trained, 1 or more."""
    steps: int | None = None
    """Steps that every model trains, 1 or more. By default as many as were recorded."""
    activations: str = "keep"
    """What happens to activations between forward and backward pass: keep ties both passes to one device, recompute
    does not."""
    double_buffer: bool = True
    """Whether the next shard is copied in and the last one out while one computes."""
    seed: int = 0
    """The integer from which the policy random draws."""
    csv: str | None = None
    """File to which the table is written as CSV. By default none."""

    def __post_init__(self) -> None:
        checks.at_least("copies", self.copies, 1)
        checks.one_of("activations", self.activations, ("keep", "recompute"))
        if not self.devices:
            raise UserError("devices=[] is empty; give at least one number, e.g. devices=[1,2,4]")
        for count in self.devices:
            checks.at_least("devices", count, 1)
        for policy in self.policies:
            checks.one_of("policies", policy, POLICIES)
        if self.steps is not None:
            checks.at_least("steps", self.steps, 1)

    def loads(self) -> list[Load]:
        """The models to be trained.

        Raises:
            ValueError: there is no such file, it is damaged, or holds no model.
        """
        if not self.costs:
            raise UserError("costs=<file> is needed: the costs.json that a sharded training has left in its folder")
        try:
            found = read_loads(self.costs)
        except FileNotFoundError:
            raise UserError(f"costs={self.costs}: there is no such file") from None
        recorded = [load for load in found if load.seconds > 0 or self.steps]
        if not recorded:
            raise UserError(f"costs={self.costs} holds no model that did a step; take that of another training")
        return [load if self.steps is None else replace(load, steps=self.steps) for load in recorded] * self.copies


@dataclass(frozen=True, kw_only=True)
class Makespan:
    """What is simulated of `devices` and `policy`, in seconds. `busy`: from 0 to 1. `speedup`: over one model at a time.

    `critical_path`, `equal_share`: neither of which any schedule is under.
    """

    devices: int
    policy: str
    makespan: float
    critical_path: float
    equal_share: float
    busy: float
    speedup: float


def makespans(settings: SimulateSettings) -> list[Makespan]:
    """A row for each number of devices and policy."""
    return _makespans(settings, settings.loads())


def _makespans(settings: SimulateSettings, loads: Sequence[Load]) -> list[Makespan]:
    rows = []
    work = sum(load.seconds for load in loads)
    for devices in settings.devices:
        for policy in settings.policies:
            result = simulate(
                loads,
                devices,
                POLICIES[policy](settings.seed),
                pins_backward=settings.activations == "keep",
                double_buffer=settings.double_buffer,
            )
            rows.append(
                Makespan(
                    devices=devices,
                    policy=policy,
                    makespan=result.makespan,
                    critical_path=critical_path(loads),
                    equal_share=equal_share(loads, devices),
                    busy=result.busy,
                    speedup=work / result.makespan,
                )
            )
    return rows


def show_makespans(settings: SimulateSettings) -> None:
    """Print the table, write it where that is asked for, and say from how many devices on nothing is gained."""
    loads = settings.loads()
    rows = _makespans(settings, loads)
    steps = sum(load.steps for load in loads)
    table = Table(title=f"{len(loads)} model{'s' * (len(loads) != 1)}, {steps:,} steps, from {settings.costs}")
    for column in ("devices", "policy", "makespan", "critical path", "equal share", "× the bound", "busy", "speed-up"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        bound = max(row.critical_path, row.equal_share)
        times = [format_duration(seconds) for seconds in (row.makespan, row.critical_path, row.equal_share)]
        ratios = [f"{row.makespan / bound:.3f}", f"{row.busy:.1%}", f"{row.speedup:.2f}"]
        table.add_row(str(row.devices), row.policy, *times, *ratios)
    console.print(table)
    enough = math.ceil(sum(load.seconds for load in loads) / critical_path(loads))
    console.print(
        f"The longest model alone sets a bound: beyond {enough} device{'s' * (enough != 1)} nothing is gained."
    )
    if settings.csv is not None:
        write_csv(Path(settings.csv), [vars(row) for row in rows])
        console.print(f"Table: {settings.csv}", soft_wrap=True)
