"""A run's settings: one dataclass per part, each defined beside the part that owns it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from partrain import checks
from partrain.boundaries.labels import LabelSettings
from partrain.data import DataSettings
from partrain.launch.settings import GroupingSettings, LaunchSettings
from partrain.networks import MLPSettings, NetworkSettings
from partrain.packs.settings import PackSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.shards.settings import ShardSettings
from partrain.strategies.settings import StrategySettings
from partrain.training.optimization import TrainSettings

OPTION_FIELDS = {
    "data": "name",
    "network": "kind",
    "labels": "family",
    "schedule": "name",
    "strategy": "name",
    "grouping": "name",
    "launch": "name",
}
"""The field of each settings group that holds the name of the chosen option."""

_WITHOUT_EFFECT = {
    "data": ("root", "download", "cache"),
    "partition": ("dry_run",),
    "report": ("page",),
}
"""The settings that no result depends on, by group."""
_LAST_BITS = ("grouping", "launch")
"""The groups of settings that change the last bits of results at most."""


@dataclass(kw_only=True)
class AloneSettings(GroupingSettings):
    """The settings of trainings that are not grouped."""

    name: str = "alone"
    """How trainings are grouped into processes: alone gives each a process of its own."""


GROUPINGS: dict[str, type[GroupingSettings]] = {
    "alone": AloneSettings,
    "pack": PackSettings,
    "shards": ShardSettings,
}
"""The class of settings for each way of grouping trainings into processes."""


@dataclass(kw_only=True)
class ScheduleSettings:
    """The order in which segments train, and end-to-end training after it."""

    name: str = "parallel"
    """The order in which segments train: parallel trains all at once, sequential one after another on the outputs of
    the trained segment to its left."""
    last_input: str = "stored"
    """The last segment's input in schedule=sequential: stored outputs of the segment to its left, or synthetic samples."""
    recovery_epochs: int = 0
    """Epochs of end-to-end training of the stitched network at the end of a run, 0 or more."""
    recovery_lr: float = 1e-3
    """Learning rate of the recovery epochs, above 0."""
    recovery_batch_size: int = 64
    """Images per step in the recovery epochs, 1 or more."""

    def __post_init__(self) -> None:
        checks.one_of("schedule", self.name, ("parallel", "sequential"))
        checks.one_of("schedule.last_input", self.last_input, ("stored", "synthetic"))
        checks.at_least("schedule.recovery_epochs", self.recovery_epochs, 0)
        checks.above("schedule.recovery_lr", self.recovery_lr, 0)
        checks.at_least("schedule.recovery_batch_size", self.recovery_batch_size, 1)


@dataclass(kw_only=True)
class RunSettings:
    """The settings of a run: all that decides its outcome, and how it is launched."""

    seed: int = 0
    """The integer from which all random numbers of a run are derived: weights, codes, samples and the order of images."""
    data: DataSettings = field(default_factory=DataSettings)
    """The data set to train and test on."""
    network: NetworkSettings = field(default_factory=MLPSettings)
    """The network to train: its kind and its layers."""
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    """Where the network is cut into segments."""
    labels: LabelSettings = field(default_factory=LabelSettings)
    """The random codes of the classes at every cut, and the losses that they are used in."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """The order in which segments train, and end-to-end training after it."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """How every segment is trained: epochs, batches, optimiser, precision and checkpoints."""
    strategy: StrategySettings = field(default_factory=StrategySettings)
    """How the network is trained on several processes: in independent segments, or in one of the usual ways."""
    grouping: GroupingSettings = field(default_factory=AloneSettings)
    """How trainings are grouped into processes: alone, in packs or in shards."""
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    """Where and how processes run: on which devices, with how many threads."""
    report: ReportSettings = field(default_factory=ReportSettings)
    """Whether and how often the page of a run is written."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain data, as config.yaml holds them."""
        return asdict(self)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that results depend on, as plain data.

        Where files are is not among them, nor how trainings are grouped and launched, which changes last bits at most.
        """
        values = {part: value for part, value in self.to_json().items() if part not in _LAST_BITS}
        for part, names in _WITHOUT_EFFECT.items():
            values[part] = {name: value for name, value in values[part].items() if name not in names}
        return values
