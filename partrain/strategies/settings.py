"""The choice of how a network is trained on several processes: the main job, or a conventional way."""

from dataclasses import dataclass

from partrain import checks
from partrain.errors import UserError

REPLICAS = ("data_parallel", "fully_sharded")
"""The strategies in which every process computes the whole network on a share of each batch."""
STAGES = ("model_parallel", "gpipe", "1f1b", "decoupled")
"""The strategies in which every process has a segment and sees every batch."""
STRATEGIES = ("synthetic", "end_to_end", *REPLICAS, *STAGES)
"""All strategies. The main job is synthetic, and end_to_end is the same loop without a cut."""
PIPELINES = ("gpipe", "1f1b")
"""The strategies that cut a batch into microbatches."""


@dataclass(kw_only=True)
class StrategySettings:
    """The settings of how a network is trained on several processes."""

    name: str = "synthetic"
    """The strategy: synthetic, end_to_end, data_parallel, fully_sharded, model_parallel, gpipe, 1f1b or decoupled."""
    microbatches: int = 4
    """Equal parts that gpipe and 1f1b cut every batch into, 1 or more."""
    timeout: float = 120.0
    """Seconds that a process waits for another before the run ends with an error, above 0."""

    def __post_init__(self) -> None:
        checks.one_of("strategy", self.name, STRATEGIES)
        checks.at_least("strategy.microbatches", self.microbatches, 1)
        checks.above("strategy.timeout", self.timeout, 0)

    @property
    def is_group(self) -> bool:
        """Return whether the processes of this strategy depend on one another."""
        return self.name in REPLICAS or self.name in STAGES


def check_group(strategy: StrategySettings, num_ranks: int, batch_size: int, num_accelerators: int | None) -> None:
    """Raise `UserError` if a group of processes cannot train by a strategy.

    Args:
        strategy: The strategy, one of `REPLICAS` or `STAGES`.
        num_ranks: The number of processes.
        batch_size: The number of images in a batch.
        num_accelerators: The number of accelerators that processes may use, or None if they are on the CPU.

    Raises:
        UserError: If there are fewer accelerators than processes, or a batch cannot be divided as the strategy does.
    """
    if num_accelerators is not None and num_accelerators < num_ranks:
        raise UserError(
            f"strategy={strategy.name} with partition.segments={num_ranks} needs {num_ranks} GPUs, but "
            f"{num_accelerators} can be used here; set partition.segments={num_accelerators}, or launch.device=cpu"
        )
    if strategy.name in REPLICAS:
        _check_divisible(batch_size, num_ranks, f"partition.segments={num_ranks} processes")
    if strategy.name in PIPELINES:
        _check_divisible(batch_size, strategy.microbatches, f"strategy.microbatches={strategy.microbatches}")
    if strategy.name == "1f1b" and strategy.microbatches < num_ranks:
        raise UserError(
            f"strategy=1f1b needs at least as many microbatches as stages, but strategy.microbatches="
            f"{strategy.microbatches} for partition.segments={num_ranks}; set strategy.microbatches={num_ranks}"
        )


def _check_divisible(batch_size: int, parts: int, divisor: str) -> None:
    """Raise `UserError` unless `batch_size` can be divided into equal `parts`. `divisor` says in words what they are."""
    if batch_size % parts == 0:
        return
    below = batch_size // parts * parts
    nearest = f"{below} or {below + parts}" if below else f"{parts}"
    raise UserError(f"train.batch_size={batch_size} cannot be divided by {divisor}; set train.batch_size to {nearest}")
