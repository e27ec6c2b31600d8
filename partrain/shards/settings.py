"""The settings of shard parallelism: memory, schedule, activations and copies."""

from dataclasses import dataclass

from partrain import checks
from partrain.shards.policies import POLICIES


@dataclass(kw_only=True)
class ShardSettings:
    """The settings of shard parallelism."""

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
        if self.budget_gib is not None:
            checks.above("launch.shards.budget_gib", self.budget_gib, 0)
        checks.one_of("launch.shards.policy", self.policy, POLICIES)
        checks.one_of("launch.shards.activations", self.activations, ("keep", "recompute"))
        checks.one_of("launch.shards.spill_to", self.spill_to, ("memory", "disk"))
        checks.above("launch.shards.stall_seconds", self.stall_seconds, 0)
