"""A run's settings: one dataclass per part, each defined beside the part that owns it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from partrain import checks
from partrain.boundaries.labels import LabelSettings
from partrain.data import DataSettings
from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.strategies.settings import StrategySettings
from partrain.training.optimization import TrainSettings

# the setting that says which option of a group is chosen
GROUPS = {
    "data": "name",
    "network": "kind",
    "labels": "family",
    "schedule": "name",
    "strategy": "name",
    "launch": "name",
}

# settings on which no number depends
_NOT_DECIDING = {
    "data": ("root", "download", "cache"),
    "launch": ("max_restarts", "shards"),  # a model in shards is what it is elsewhere
    "partition": ("dry_run",),
    "report": ("page",),
    "strategy": ("port",),
}


@dataclass(kw_only=True)
class ScheduleSettings:
    """`parallel`: all segments at once. `sequential`: one after another, each fed the trained left one's outputs.

    `last_input`: what the last segment is fed in `sequential`; with labels.loss=similarity synthetic samples do at least
    as well as stored outputs, since it has nothing left to find in the images, only to decode.
    `recovery_epochs`: epochs of end-to-end training of the stitched network after either, with `recovery_lr` and
    `recovery_batch_size`.
    """

    name: str = "parallel"
    last_input: str = "stored"
    recovery_epochs: int = 0
    recovery_lr: float = 1e-3
    recovery_batch_size: int = 64

    def __post_init__(self) -> None:
        checks.one_of("schedule", self.name, ("parallel", "sequential"))
        checks.one_of("schedule.last_input", self.last_input, ("stored", "synthetic"))
        checks.at_least("schedule.recovery_epochs", self.recovery_epochs, 0)
        checks.above("schedule.recovery_lr", self.recovery_lr, 0)
        checks.at_least("schedule.recovery_batch_size", self.recovery_batch_size, 1)


@dataclass(kw_only=True)
class RunSettings:
    """All that decides a run's outcome, and how it is launched."""

    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=MLPSettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    report: ReportSettings = field(default_factory=ReportSettings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def fingerprint(self) -> dict[str, Any]:
        """All settings that numbers depend on; where files lie is not part of it."""
        values = self.to_json()
        for part, names in _NOT_DECIDING.items():
            values[part] = {name: value for name, value in values[part].items() if name not in names}
        return values
