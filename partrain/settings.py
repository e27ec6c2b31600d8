"""A run's settings: one dataclass per part, each defined beside the part that owns it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from partrain import checks
from partrain.boundaries.labels import LABELS, LabelSettings, SimplexLabels
from partrain.data import DATA_SETS, DataSettings, Glyphs
from partrain.errors import UserError
from partrain.launch.settings import LAUNCHERS, GroupingSettings, LaunchSettings, Local
from partrain.networks import MLP, NETWORKS, NetworkSettings
from partrain.options import Option, Options, Settings, field_types
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.shards.settings import Shards
from partrain.strategies.settings import STRATEGIES, EndToEnd, StrategySettings, Synthetic
from partrain.training.optimization import TrainSettings

_WITHOUT_EFFECT = {
    "data": ("root", "download", "cache"),
    "partition": ("dry_run",),
    "report": ("page",),
}
"""The settings that no result depends on, by group."""
_LAST_BITS = ("grouping", "launch")
"""The groups of settings that change the last bits of results at most."""


@dataclass(kw_only=True)
class Alone(GroupingSettings):
    """The settings of trainings that are not grouped."""

    name: str = "alone"
    """How trainings are grouped into processes: alone gives each a process of its own."""


GROUPINGS: Options[GroupingSettings] = Options(GroupingSettings, {"alone": Alone, "pack": Pack, "shards": Shards})
"""The settings of each way of grouping trainings into processes."""


@dataclass(kw_only=True)
class ScheduleSettings(Option):
    """The settings of the order in which segments train, and of end-to-end training after it."""

    group: ClassVar[str] = "schedule"

    recovery_epochs: int = 0
    """Epochs of end-to-end training of the stitched network at the end of a run, 0 or more."""
    recovery_lr: float = 1e-3
    """Learning rate of the recovery epochs, above 0."""
    recovery_batch_size: int = 64
    """Images per step in the recovery epochs, 1 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("schedule.recovery_epochs", self.recovery_epochs, 0)
        checks.above("schedule.recovery_lr", self.recovery_lr, 0)
        checks.at_least("schedule.recovery_batch_size", self.recovery_batch_size, 1)


@dataclass(kw_only=True)
class Parallel(ScheduleSettings):
    """The settings of segments that all train at once."""

    name: str = "parallel"
    """The order in which segments train: parallel trains all at once."""


@dataclass(kw_only=True)
class Sequential(ScheduleSettings):
    """The settings of segments that train one after another."""

    name: str = "sequential"
    """The order in which segments train: sequential trains one after another, each on the outputs of the trained
    segment to its left."""
    last_input: str = "synthetic"
    """The last segment's input: stored outputs of the segment to its left, or synthetic samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("schedule.last_input", self.last_input, ("stored", "synthetic"))


SCHEDULES: Options[ScheduleSettings] = Options(ScheduleSettings, {"parallel": Parallel, "sequential": Sequential})
"""The settings of each schedule."""

GROUPS: dict[str, Options[Any]] = {
    "data": DATA_SETS,
    "network": NETWORKS,
    "labels": LABELS,
    "schedule": SCHEDULES,
    "strategy": STRATEGIES,
    "grouping": GROUPINGS,
    "launch": LAUNCHERS,
}
"""The groups of settings that have options, by name."""


@dataclass(kw_only=True)
class RunSettings(Settings):
    """The settings of a run: all that decides its outcome, and how it is launched."""

    seed: int = 0
    """The integer from which all random numbers of a run are derived: weights, codes, samples and the order of images."""
    data: DataSettings = field(default_factory=Glyphs)
    """The data set to train and test on."""
    network: NetworkSettings = field(default_factory=MLP)
    """The network to train: its kind and its layers."""
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    """Where the network is cut into segments."""
    labels: LabelSettings = field(default_factory=SimplexLabels)
    """The random codes of the classes at every cut, and the losses that they are used in."""
    schedule: ScheduleSettings = field(default_factory=Parallel)
    """The order in which segments train, and end-to-end training after it."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """How every segment is trained: epochs, batches, optimiser, precision and checkpoints."""
    strategy: StrategySettings = field(default_factory=Synthetic)
    """How the network is trained on several processes: in independent segments, or in one of the usual ways."""
    grouping: GroupingSettings = field(default_factory=Alone)
    """How trainings are grouped into processes: alone, in packs or in shards."""
    launch: LaunchSettings = field(default_factory=Local)
    """Where and how processes run: on which devices, with how many threads."""
    report: ReportSettings = field(default_factory=ReportSettings)
    """Whether and how often the page of a run is written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.strategy, EndToEnd):
            self.strategy, self.partition = Synthetic(), _without_cuts(self.partition)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, as config.yaml holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings that plain data describe, such as the contents of a config.yaml. Others are the defaults.

        Raises:
            UserError: If there is no such setting, if it belongs to an option that is not chosen, or for a wrong value.
        """
        types = field_types(cls)
        parts: dict[str, Any] = {}
        for name, value in values.items():
            if name not in types:
                raise UserError(checks.unknown_setting(name, types))
            parts[name] = _part_from_dict(name, types[name], value)
        return cls(**parts)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that results depend on, as plain data.

        Where files are is not among them, nor how trainings are grouped and launched, which changes last bits at most.
        """
        values = {part: value for part, value in self.to_dict().items() if part not in _LAST_BITS}
        for part, names in _WITHOUT_EFFECT.items():
            values[part] = {name: value for name, value in values[part].items() if name not in names}
        return values


def _part_from_dict(name: str, settings: Any, value: Any) -> Any:
    """Return one part of a run's settings, given its type and its plain data. A group's option is the default one."""
    if not isinstance(value, Mapping):
        return value
    if name in GROUPS:
        default = next(part for part in fields(RunSettings) if part.name == name).default_factory
        return GROUPS[name].from_dict({"name": default().name, **value})  # type: ignore[operator]
    for key in value:
        if key not in field_types(settings):
            raise UserError(checks.unknown_setting(f"{name}.{key}", field_types(settings)))
    return settings(**value)


def _without_cuts(partition: PartitionSettings) -> PartitionSettings:
    """Return the settings of a network that is trained end to end, in one segment.

    Raises:
        UserError: If the network is cut.
    """
    if partition.at or partition.segments not in (None, 1):
        cut = f"partition.at={partition.at}" if partition.at else f"partition.segments={partition.segments}"
        raise UserError(
            f"{cut} does not fit strategy=end_to_end, which trains the network uncut; leave one of them out"
        )
    return replace(partition, segments=1, at=None)
