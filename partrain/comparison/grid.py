"""The grid of a comparison: its settings, its cells, and the settings of a cell's runs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any, ClassVar

from partrain import checks
from partrain.errors import UserError
from partrain.networks import NETWORKS, NetworkSettings
from partrain.options import Settings, field_defaults
from partrain.settings import Parallel, RunSettings, Sequential
from partrain.strategies.settings import PIPELINES, STRATEGIES, GangSettings, StrategySettings

SEQUENTIAL = "sequential"
"""The name in a comparison of strategy=synthetic with schedule=sequential."""
COMPARED_STRATEGIES = (
    "end_to_end",
    *(name for name in STRATEGIES.classes if name not in ("end_to_end", "synthetic")),
    "synthetic",
    SEQUENTIAL,
)
"""The names that grid.strategies may contain, in the order of a default comparison."""

# For each of a run's settings that the grid decides: the grid's setting to use instead.
_SET_BY_GRID = {
    "partition.segments": "grid.segments",
    "partition.at": "grid.segments",
    "network.width": "grid.widths",
    "network.widths": "grid.widths",
    "train.batch_size": "grid.batch_sizes",
    "strategy": "grid.strategies",
    "schedule": "grid.strategies",
}


@dataclass(kw_only=True)
class GridSettings(Settings):
    """The settings of a comparison: every combination of its lists is a cell, which is trained several times."""

    group: ClassVar[str] = "grid"

    strategies: list[str] = field(default_factory=lambda: list(COMPARED_STRATEGIES))
    """Strategies to compare: those of the group strategy, and sequential, which is synthetic with schedule=sequential.
    By default all."""
    networks: list[str] | None = None
    """Networks to compare, by their options in the group network; all but the chosen one have default settings. By
    default the chosen one."""
    widths: list[int] = field(default_factory=lambda: [512])
    """Widths of hidden layers to compare, 1 or more, for networks that have one width."""
    segments: list[int] = field(default_factory=lambda: [2])
    """Numbers of segments to compare, 1 or more, for all strategies but end_to_end."""
    batch_sizes: list[int] = field(default_factory=lambda: [256])
    """Batch sizes to compare, in images per step, 1 or more."""
    microbatches: list[int] = field(default_factory=lambda: [2, 4, 8])
    """Numbers of microbatches to compare, 1 or more, for gpipe and 1f1b."""
    timeout: float = GangSettings.timeout
    """Seconds that a process of a strategy waits for another before its run ends with an error, above 0."""
    repeats: int = 5
    """Runs of every cell, 1 or more; repeat r, from 0, has the seed plus r."""
    accuracies: list[float] = field(default_factory=list)
    """Test accuracies, from 0 to 1, for which the table gives the seconds until a run reaches them. By default none."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
        for network in self.networks or ():
            checks.one_of("grid.networks", network, NETWORKS.classes)
        for name in ("widths", "segments", "batch_sizes", "microbatches"):
            for value in getattr(self, name):
                checks.at_least(f"grid.{name}", value, 1)
        checks.above("grid.timeout", self.timeout, 0)
        checks.at_least("grid.repeats", self.repeats, 1)
        for accuracy in self.accuracies:
            checks.within("grid.accuracies", accuracy, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the grid: one combination of its values."""

    strategy: str
    network: str
    width: int | None
    """The network's width, or None if the network has no such setting."""
    segments: int
    batch_size: int
    microbatches: int | None
    """The number of microbatches, or None if the strategy is not a pipeline."""
    timeout: float = GangSettings.timeout
    """Seconds that a process waits for another."""

    @property
    def name(self) -> str:
        """Return the cell's name, which is its folder's too, e.g. "gpipe-mlp512-k2-b256-m4"."""
        parts = [self.strategy, f"{self.network}{self.width or ''}"]
        if self.strategy != "end_to_end":
            parts.append(f"k{self.segments}")
        parts.append(f"b{self.batch_size}")
        if self.microbatches:
            parts.append(f"m{self.microbatches}")
        return "-".join(parts)

    def settings(self, shared: RunSettings, repeat: int) -> RunSettings:
        """Return the settings of the cell's run number `repeat`, in which all but the cell's values is as in `shared`."""
        return replace(
            shared,
            seed=shared.seed + repeat,
            network=self._network_settings(shared),
            partition=replace(shared.partition, segments=self.segments),
            train=replace(shared.train, batch_size=self.batch_size),
            strategy=self._strategy_settings(),
            schedule=Sequential() if self.strategy == SEQUENTIAL else Parallel(),
        )

    def _network_settings(self, shared: RunSettings) -> NetworkSettings:
        """Return the shared network with the cell's width, or the cell's network with its default settings."""
        kind = NETWORKS.classes[self.network]
        values = asdict(shared.network) if type(shared.network) is kind else field_defaults(kind)
        width = {"width": self.width} if self.width else {}
        return NETWORKS.from_dict(values | width)

    def _strategy_settings(self) -> StrategySettings:
        """Return the settings of the cell's strategy."""
        values: dict[str, Any] = {"name": "synthetic" if self.strategy == SEQUENTIAL else self.strategy}
        if issubclass(STRATEGIES.class_named(values["name"]), GangSettings):
            values["timeout"] = self.timeout
        if self.microbatches:
            values["microbatches"] = self.microbatches
        return STRATEGIES.from_dict(values)


def grid_cells(grid: GridSettings, chosen: str = "mlp") -> list[Cell]:
    """Return the cells of the grid, each once. Cells that are compared with one another are neighbours.

    Args:
        grid: The grid.
        chosen: The option of the network to compare where the grid names none.
    """
    return list(dict.fromkeys(_combinations(grid, chosen)))


def _combinations(grid: GridSettings, chosen: str) -> Iterator[Cell]:
    """Yield a cell for each combination of the grid's values. End to end is the same for each number of segments."""
    for network in grid.networks or [chosen]:
        widths = grid.widths if _has_width(network) else [None]
        for width, batch_size, segments, strategy in product(widths, grid.batch_sizes, grid.segments, grid.strategies):
            for microbatches in _microbatch_counts(grid, strategy, segments):
                yield Cell(
                    strategy=strategy,
                    network=network,
                    width=width,
                    segments=1 if strategy == "end_to_end" else segments,
                    batch_size=batch_size,
                    microbatches=microbatches,
                    timeout=grid.timeout,
                )


def _has_width(network: str) -> bool:
    return "width" in {setting.name for setting in fields(NETWORKS.classes[network])}


def _microbatch_counts(grid: GridSettings, strategy: str, segments: int) -> Sequence[int | None]:
    """Return the numbers of microbatches that a strategy is run with."""
    if strategy not in PIPELINES:
        return [None]
    if strategy != "1f1b":
        return grid.microbatches
    # 1F1B needs as many microbatches as stages. If no number suffices, all are kept, so that `check_cells` raises the
    # error that says what to change.
    return [count for count in grid.microbatches if count >= segments] or grid.microbatches


def skipped_cell_notes(grid: GridSettings) -> list[str]:
    """Return a sentence for each number of segments with which 1F1B cannot use some numbers of microbatches."""
    if "1f1b" not in grid.strategies:
        return []
    notes = []
    for segments in grid.segments:
        usable = _microbatch_counts(grid, "1f1b", segments)
        skipped = [count for count in grid.microbatches if count not in usable]
        if skipped:
            notes.append(
                f"1f1b with {segments} segments is skipped for grid.microbatches=[{_listed(skipped)}]: it needs at least "
                f"{segments} microbatches"
            )
    return notes


def check_shared_settings(shared: RunSettings, grid: GridSettings) -> None:
    """Check that the shared settings leave to the grid what the grid decides.

    Raises:
        UserError: If `shared` sets something that has no effect in a comparison, a recovery, or a network that is not in
            the grid.
    """
    for setting, grid_setting in _SET_BY_GRID.items():
        _check_default(shared, setting, grid_setting)
    recovery_epochs = shared.schedule.recovery_epochs
    if recovery_epochs:
        raise UserError(
            f"schedule.recovery_epochs={recovery_epochs} cannot be used in a comparison, as a recovery is not part of any "
            "strategy; remove it"
        )
    kind = NETWORKS.name_of(type(shared.network))
    if grid.networks is not None and kind not in grid.networks:
        raise UserError(
            f"network={kind} is not in grid.networks=[{_listed(grid.networks)}]; add it, or set network={grid.networks[0]}"
        )


def _check_default(shared: RunSettings, setting: str, grid_setting: str) -> None:
    """Raise `UserError` if `setting`, e.g. "train.batch_size" or "schedule", does not have its default value."""
    group, _, key = setting.partition(".")
    chosen = getattr(shared, group)
    defaults = field_defaults(type(chosen) if key else type(getattr(RunSettings(), group)))
    key = key or "name"
    value = getattr(chosen, key, None)  # Not all networks have a width.
    if value != defaults.get(key):
        raise UserError(
            f"{setting}={_format_value(value)} has no effect in a comparison; remove it, and set {grid_setting}"
        )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _format_value(value: Any) -> str:
    return f"[{_listed(value)}]" if isinstance(value, list) else str(value)
