"""The settings of shard parallelism: memory, schedule, activations and copies."""

from dataclasses import dataclass

from partrain import checks
from partrain.launch.settings import GroupingSettings
from partrain.shards.policies import POLICIES
from partrain.storage.run_folder import SHARDS


@dataclass(kw_only=True)
class Shards(GroupingSettings):
    """The settings of shard parallelism."""

    name: str = "shards"
    """How trainings are grouped into processes: shards of all trainings take turns on the devices."""
    budget_gib: float | None = None
    """Device memory that shards may use, in GiB, above 0. By default 0.8 of what is free."""
    policy: str = "longest_remaining"
    """Which model a device takes next: longest_remaining, fifo or random."""
    activations: str = "keep"
    """What happens to activations between forward and backward pass: keep holds them in host memory, recompute computes
    them again from the shard's input."""
    double_buffer: bool = True
    """Whether the next shard is copied in and the last one out while one computes."""
    separate: bool = False
    """Whether shards are copied between separate buffers on a CPU too, as a GPU must."""
    spill_to: str = "memory"
    """Where shards are that no device holds: memory or disk."""
    stall_seconds: float = 600.0
    """Seconds at one unit after which a worker is replaced, above 0. Until its first answer a worker has 60 more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget_gib is not None:
            checks.above("grouping.budget_gib", self.budget_gib, 0)
        checks.one_of("grouping.policy", self.policy, POLICIES)
        checks.one_of("grouping.activations", self.activations, ("keep", "recompute"))
        checks.one_of("grouping.spill_to", self.spill_to, ("memory", "disk"))
        checks.above("grouping.stall_seconds", self.stall_seconds, 0)

    @property
    def subfolder(self) -> str:
        """Return the name of the folder, in a run's, for the files of trainings in shards."""
        return SHARDS
