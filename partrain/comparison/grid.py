"""What is compared: the grid's settings, its cells, and the settings of a cell's runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any

from partrain import checks
from partrain.errors import UserError
from partrain.networks import NETWORKS, network_settings_from_dict
from partrain.settings import RunSettings, ScheduleSettings
from partrain.strategies.settings import PIPELINES, STRATEGIES, StrategySettings

SEQUENTIAL = "sequential"  # strategy=synthetic with schedule=sequential
COMPARED_STRATEGIES = (
    "end_to_end",
    *(name for name in STRATEGIES if name not in ("end_to_end", "synthetic")),
    "synthetic",
    SEQUENTIAL,
)

# settings of a run that the grid decides, and where they are set instead
_DECIDED = {
    "partition.segments": "grid.segments",
    "partition.at": "grid.segments",
    "network.width": "grid.widths",
    "network.widths": "grid.widths",
    "train.batch_size": "grid.batch_sizes",
    "strategy.name": "grid.strategies",
    "strategy.microbatches": "grid.microbatches",
    "schedule.name": "grid.strategies",
}


@dataclass(kw_only=True)
class GridSettings:
    """The settings of a comparison: every combination of its lists is a cell, which is trained several times."""

    strategies: list[str] = field(default_factory=lambda: list(COMPARED_STRATEGIES))
    """Strategies to compare: those of the group strategy, and sequential, which is synthetic with schedule=sequential.
    By default all."""
    networks: list[str] = field(default_factory=lambda: ["mlp"])
    """Networks to compare, by their names in the group network; all but the chosen one have default settings. By
    default the chosen one."""
    widths: list[int] = field(default_factory=lambda: [512])
    """Widths of hidden layers to compare, 1 or more, for networks that have one width."""
    segments: list[int] = field(default_factory=lambda: [2])
    """Numbers of segments to compare, 1 or more, for all strategies but end_to_end."""
    batch_sizes: list[int] = field(default_factory=lambda: [256])
    """Batch sizes to compare, in images per step, 1 or more."""
    microbatches: list[int] = field(default_factory=lambda: [2, 4, 8])
    """Numbers of microbatches to compare, 1 or more, for gpipe and 1f1b."""
    repeats: int = 5
    """Runs of every cell, 1 or more; repeat r, from 0, has the seed plus r."""
    accuracies: list[float] = field(default_factory=list)
    """Test accuracies, from 0 to 1, for which the table gives the seconds until a run reaches them. By default none."""

    def __post_init__(self) -> None:
        for part in fields(self):
            values = getattr(self, part.name)
            if not isinstance(values, Sequence):
                continue
            if not values and part.name != "accuracies":
                raise UserError(f"grid.{part.name} is empty; give at least one")
            if len(set(values)) < len(values):
                raise UserError(f"grid.{part.name}=[{_listed(values)}]: a value is repeated; give each once")
        for strategy in self.strategies:
            checks.one_of("grid.strategies", strategy, COMPARED_STRATEGIES)
        for network in self.networks:
            checks.one_of("grid.networks", network, NETWORKS)
        for name in ("widths", "segments", "batch_sizes", "microbatches"):
            for value in getattr(self, name):
                checks.at_least(f"grid.{name}", value, 1)
        checks.at_least("grid.repeats", self.repeats, 1)
        for accuracy in self.accuracies:
            checks.within("grid.accuracies", accuracy, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of the grid. `width` is None where the network has none, `microbatches` but for pipelines."""

    strategy: str
    network: str
    width: int | None
    segments: int
    batch_size: int
    microbatches: int | None

    @property
    def name(self) -> str:
        """Also its folder's: gpipe-mlp512-k2-b256-m4."""
        parts = [self.strategy, f"{self.network}{self.width or ''}"]
        parts += [] if self.strategy == "end_to_end" else [f"k{self.segments}"]
        parts += [f"b{self.batch_size}"]
        return "-".join([*parts, f"m{self.microbatches}"] if self.microbatches else parts)

    def settings(self, shared: RunSettings, repeat: int) -> RunSettings:
        """Of the cell's run number `repeat`; the grid's cells have all else in common."""
        kind, width = self.network, {"width": self.width} if self.width else {}
        network = shared.network if shared.network.kind == kind else NETWORKS[kind]()
        name = "synthetic" if self.strategy == SEQUENTIAL else self.strategy
        microbatches = self.microbatches or StrategySettings.microbatches
        schedule = ScheduleSettings()
        if name == "synthetic":
            schedule = replace(shared.schedule, name=SEQUENTIAL if self.strategy == SEQUENTIAL else "parallel")
        return replace(
            shared,
            seed=shared.seed + repeat,
            network=network_settings_from_dict(asdict(network) | width),
            partition=replace(shared.partition, segments=self.segments),
            train=replace(shared.train, batch_size=self.batch_size),
            strategy=replace(shared.strategy, name=name, microbatches=microbatches),
            schedule=schedule,
        )


def grid_cells(grid: GridSettings) -> list[Cell]:
    """Each once, those that are compared with one another in a row."""
    found = [
        Cell(
            strategy=strategy,
            network=network,
            width=width,
            segments=1 if strategy == "end_to_end" else segments,
            batch_size=batch_size,
            microbatches=microbatches,
        )
        for network in grid.networks
        for width, batch_size, segments, strategy in product(
            grid.widths if _has_width(network) else [None], grid.batch_sizes, grid.segments, grid.strategies
        )
        for microbatches in _microbatches(grid, strategy, segments)
    ]
    return list(dict.fromkeys(found))


def skipped_cell_notes(grid: GridSettings) -> list[str]:
    """A sentence for every count of microbatches that some cells cannot have."""
    return [
        f"1f1b with K = {segments} is left out for {_listed(few)} microbatches: it needs as many as stages"
        for segments in (grid.segments if "1f1b" in grid.strategies else [])
        if (few := [count for count in grid.microbatches if count not in _microbatches(grid, "1f1b", segments)])
    ]


def _microbatches(grid: GridSettings, strategy: str, segments: int) -> Sequence[int | None]:
    if strategy not in PIPELINES:
        return [None]
    # where none is enough all are kept, so that checking the cells says what to change
    enough = [count for count in grid.microbatches if count >= segments or strategy != "1f1b"]
    return enough or grid.microbatches


def check_shared_settings(shared: RunSettings, grid: GridSettings) -> None:
    """Raise `ValueError` where `shared` sets what would be of no effect: what the grid decides, or another network."""
    for setting, instead in _DECIDED.items():
        part, _, key = setting.partition(".")
        owner = getattr(shared, part)
        default = {each.name: each.default for each in fields(owner)}
        if key in default and (value := getattr(owner, key)) != default[key]:
            shown = part if key == "name" else setting
            raise UserError(f"{shown}={_shown(value)}: in a comparison {instead} says so; leave it out, and set that")
    if shared.schedule.recovery_epochs:
        raise UserError(
            f"schedule.recovery_epochs={shared.schedule.recovery_epochs}: a comparison has none, as what they cost is no "
            "strategy's; leave it out"
        )
    kind = shared.network.kind
    if kind not in grid.networks:
        raise UserError(
            f"network={kind} is not in grid.networks=[{_listed(grid.networks)}]; add it, or set network={grid.networks[0]}"
        )


def _has_width(network: str) -> bool:
    return "width" in {each.name for each in fields(NETWORKS[network])}


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _shown(value: Any) -> str:
    return f"[{_listed(value)}]" if isinstance(value, list) else str(value)
