"""What can be set of shard parallelism."""

from dataclasses import dataclass

from partrain import checks
from partrain.shards.policies import POLICIES


@dataclass(kw_only=True)
class ShardSettings:
    """`budget_gib`: what a device may hold at once; None: what is free.

    `activations`: what a forward pass leaves for the backward one is kept in host memory, which ties a shard's backward
    pass to the device of its forward one, or recomputed from the shard's input, which does not. `double_buffer`: copy the
    next shard in and the last one out while one computes. `separate`: on a CPU, where host and device share one memory,
    copy shards between separate buffers all the same, as a GPU must. `spill_to`: where shards are that no device holds.
    `stall_seconds`: how long a worker may be at one unit before it is taken to be stuck.
    """

    budget_gib: float | None = None
    policy: str = "longest_remaining"
    activations: str = "keep"
    double_buffer: bool = True
    separate: bool = False
    spill_to: str = "memory"
    stall_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.budget_gib is not None:
            checks.above("launch.shards.budget_gib", self.budget_gib, 0)
        checks.one_of("launch.shards.policy", self.policy, POLICIES)
        checks.one_of("launch.shards.activations", self.activations, ("keep", "recompute"))
        checks.one_of("launch.shards.spill_to", self.spill_to, ("memory", "disk"))
        checks.above("launch.shards.stall_seconds", self.stall_seconds, 0)
