"""Which way a network is trained on several devices: the main job, or what one would do instead."""

from dataclasses import dataclass

from partrain import checks
from partrain.errors import UserError

REPLICAS = ("data_parallel", "fully_sharded")  # every process has the whole network and a share of each batch
STAGES = ("model_parallel", "gpipe", "1f1b", "decoupled")  # every process has a segment and sees every batch
STRATEGIES = ("synthetic", "end_to_end", *REPLICAS, *STAGES)
PIPELINES = ("gpipe", "1f1b")


@dataclass(kw_only=True)
class StrategySettings:
    """The settings of how a network is trained on several processes."""

    name: str = "synthetic"
    """The strategy: synthetic, end_to_end, data_parallel, fully_sharded, model_parallel, gpipe, 1f1b or decoupled."""
    microbatches: int = 4
    """Equal parts that gpipe and 1f1b cut every batch into, 1 or more."""
    timeout: float = 120.0
    """Seconds that a process waits for another before the run ends with an error, above 0."""
    port: int = 29500
    """The TCP port at which processes of a strategy find one another, from 0 (any) to 65535; another is taken if it is
    in use."""

    def __post_init__(self) -> None:
        checks.one_of("strategy", self.name, STRATEGIES)
        checks.at_least("strategy.microbatches", self.microbatches, 1)
        checks.above("strategy.timeout", self.timeout, 0)
        checks.within("strategy.port", self.port, 0, 65535)

    @property
    def is_group(self) -> bool:
        """Whether its processes depend on one another."""
        return self.name in REPLICAS or self.name in STAGES


def check_group(strategy: StrategySettings, num_ranks: int, batch_size: int, devices: list[str]) -> None:
    """Raise `ValueError` where `num_ranks` processes on `devices` cannot train batches of `batch_size` that way."""
    gpus = {device for device in devices if device != "cpu"}
    if gpus and len(gpus) < num_ranks:
        raise UserError(
            f"strategy={strategy.name} with partition.segments={num_ranks} needs as many GPUs, {len(gpus)} can be used "
            f"here; set partition.segments={len(gpus)}, or launch.device=cpu"
        )
    if strategy.name in REPLICAS:
        _check_divisible(batch_size, num_ranks, f"partition.segments={num_ranks} processes")
    if strategy.name in PIPELINES:
        _check_divisible(batch_size, strategy.microbatches, f"strategy.microbatches={strategy.microbatches}")
    if strategy.name == "1f1b" and strategy.microbatches < num_ranks:
        raise UserError(
            f"strategy=1f1b needs at least as many microbatches as stages, strategy.microbatches="
            f"{strategy.microbatches} for partition.segments={num_ranks}; set strategy.microbatches={num_ranks}"
        )


def _check_divisible(batch_size: int, parts: int, what: str) -> None:
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        raise UserError(f"train.batch_size={batch_size} cannot be divided by {what}; the nearest that can is {nearest}")
