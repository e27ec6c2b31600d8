"""A table of simulated makespans: how long a sharded training takes on other numbers of devices and other policies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from rich.table import Table

from partrain import checks
from partrain.console import console
from partrain.errors import UserError
from partrain.report.formatting import format_duration, format_quantity
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

    def read_loads(self) -> list[Load]:
        """Return the models to train: those of the file that did a step, `copies` times, for `steps` steps each.

        Raises:
            UserError: If there is no such file, or if it is damaged or holds no model that did a step.
        """
        if not self.costs:
            raise UserError("costs=<file> is missing; give the costs.json in the folder of a sharded training")
        try:
            measured = read_loads(self.costs)
        except FileNotFoundError:
            raise UserError(f"costs={self.costs}: there is no such file") from None

        loads = [load for load in measured if load.seconds > 0 or self.steps]
        if not loads:
            raise UserError(
                f"costs={self.costs} holds no model that did a step; give the costs.json of another sharded training"
            )
        if self.steps is not None:
            loads = [replace(load, steps=self.steps) for load in loads]
        return loads * self.copies


@dataclass(frozen=True, kw_only=True)
class Makespan:
    """A row of the table: a simulated training on `devices` devices under `policy`. All times are in seconds."""

    devices: int
    policy: str
    makespan: float
    critical_path: float
    """How long the longest model takes alone. No schedule is faster."""
    equal_share: float
    """The computation per device, were it shared equally. No schedule is faster."""
    busy: float
    """The part of the time for which a device computes, from 0 to 1."""
    speedup: float
    """How many times faster than computing all models one at a time, without copies."""


def simulate_makespans(settings: SimulateSettings, loads: Sequence[Load]) -> list[Makespan]:
    """Simulate the training of `loads` for each number of devices with each policy, and return a row for each."""
    return [
        _simulate_makespan(settings, loads, devices, policy)
        for devices, policy in product(settings.devices, settings.policies)
    ]


def _simulate_makespan(settings: SimulateSettings, loads: Sequence[Load], devices: int, policy: str) -> Makespan:
    result = simulate(
        loads,
        devices,
        POLICIES[policy](settings.seed),
        pins_backward=settings.activations == "keep",
        double_buffer=settings.double_buffer,
    )
    return Makespan(
        devices=devices,
        policy=policy,
        makespan=result.makespan,
        critical_path=critical_path(loads),
        equal_share=equal_share(loads, devices),
        busy=result.busy,
        speedup=sum(load.seconds for load in loads) / result.makespan,
    )


def print_makespans(settings: SimulateSettings) -> None:
    """Print the table, and from how many devices on another one gains nothing; write the table to `settings.csv`."""
    loads = settings.read_loads()
    rows = simulate_makespans(settings, loads)
    console.print(_table(rows, title=_title(loads, settings.costs)))

    longest = critical_path(loads)
    most_devices = math.ceil(sum(load.seconds for load in loads) / longest)
    devices = format_quantity(most_devices, "device")
    console.print(
        f"Nothing is gained by more than {devices}: the longest model alone takes {format_duration(longest)}."
    )
    if settings.csv is not None:
        write_csv(Path(settings.csv), [vars(row) for row in rows])
        console.print(f"Table: {settings.csv}", soft_wrap=True)


def _title(loads: Sequence[Load], source: str) -> str:
    steps = sum(load.steps for load in loads)
    return f"{format_quantity(len(loads), 'model')}, {steps:,} steps, from {source}"


def _table(rows: Sequence[Makespan], title: str) -> Table:
    table = Table(title=title)
    columns = ("devices", "policy", "makespan", "critical path", "equal share", "× lower bound", "busy", "speedup")
    for column in columns:
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        lower_bound = max(row.critical_path, row.equal_share)
        table.add_row(
            str(row.devices),
            row.policy,
            format_duration(row.makespan),
            format_duration(row.critical_path),
            format_duration(row.equal_share),
            f"{row.makespan / lower_bound:.3f}",
            f"{row.busy:.1%}",
            f"{row.speedup:.2f}",
        )
    return table
