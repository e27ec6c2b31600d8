"""The choice of how a network is trained on several processes: the main job, or a conventional way."""

from dataclasses import dataclass
from typing import ClassVar

from partrain import checks
from partrain.errors import UserError
from partrain.options import Option, Options


@dataclass(kw_only=True)
class StrategySettings(Option):
    """The settings of how a network is trained on several processes."""

    group: ClassVar[str] = "strategy"
    is_group: ClassVar[bool] = False
    """Whether the processes of this strategy depend on one another."""
    has_replicas: ClassVar[bool] = False
    """Whether every process computes the whole network on a share of each batch, instead of a segment on all of it."""


@dataclass(kw_only=True)
class Synthetic(StrategySettings):
    """The settings of the main job: segments that train independently, with synthetic labels at the cuts."""

    name: str = "synthetic"
    """The strategy: synthetic."""


@dataclass(kw_only=True)
class EndToEnd(StrategySettings):
    """The settings of conventional training, which is the main job without a cut: another word for it."""

    name: str = "end_to_end"
    """The strategy: end_to_end, which is partition.segments=1."""


@dataclass(kw_only=True)
class GangSettings(StrategySettings):
    """The settings of a strategy whose processes depend on one another."""

    is_group: ClassVar[bool] = True

    timeout: float = 120.0
    """Seconds that a process waits for another before the run ends with an error, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above("strategy.timeout", self.timeout, 0)


@dataclass(kw_only=True)
class PipelineSettings(GangSettings):
    """The settings of a strategy whose processes work on several parts of a batch at once."""

    microbatches: int = 4
    """Equal parts that every batch is cut into, 1 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("strategy.microbatches", self.microbatches, 1)


@dataclass(kw_only=True)
class DataParallel(GangSettings):
    """The settings of replicas that sum their gradients (PyTorch's DDP)."""

    has_replicas: ClassVar[bool] = True

    name: str = "data_parallel"
    """The strategy: data_parallel."""


@dataclass(kw_only=True)
class FullySharded(GangSettings):
    """The settings of replicas that each hold a share of the weights (PyTorch's FSDP)."""

    has_replicas: ClassVar[bool] = True

    name: str = "fully_sharded"
    """The strategy: fully_sharded."""


@dataclass(kw_only=True)
class ModelParallel(GangSettings):
    """The settings of segments that pass activations and gradients on, one at work at a time."""

    name: str = "model_parallel"
    """The strategy: model_parallel."""


@dataclass(kw_only=True)
class GPipe(PipelineSettings):
    """The settings of a pipeline with all forward passes of a batch before its backward passes."""

    name: str = "gpipe"
    """The strategy: gpipe."""


@dataclass(kw_only=True)
class Pipeline1F1B(PipelineSettings):
    """The settings of a pipeline in which forward and backward passes take turns."""

    name: str = "1f1b"
    """The strategy: 1f1b."""


@dataclass(kw_only=True)
class Decoupled(GangSettings):
    """The settings of segments that pass activations on, and train each with a classifier of its own."""

    name: str = "decoupled"
    """The strategy: decoupled."""


STRATEGIES: Options[StrategySettings] = Options(
    StrategySettings,
    {
        "synthetic": Synthetic,
        "end_to_end": EndToEnd,
        "data_parallel": DataParallel,
        "fully_sharded": FullySharded,
        "model_parallel": ModelParallel,
        "gpipe": GPipe,
        "1f1b": Pipeline1F1B,
        "decoupled": Decoupled,
    },
)
"""The settings of each strategy."""
REPLICAS = tuple(name for name, settings in STRATEGIES.classes.items() if settings.has_replicas)
"""The strategies in which every process computes the whole network on a share of each batch."""
PIPELINES = tuple(name for name, settings in STRATEGIES.classes.items() if issubclass(settings, PipelineSettings))
"""The strategies that cut a batch into microbatches."""


def check_group(strategy: StrategySettings, num_ranks: int, batch_size: int, num_accelerators: int | None) -> None:
    """Raise `UserError` if a group of processes cannot train by a strategy.

    Args:
        strategy: The strategy, whose processes depend on one another.
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
    if strategy.has_replicas:
        _check_divisible(batch_size, num_ranks, f"partition.segments={num_ranks} processes")
    if isinstance(strategy, PipelineSettings):
        _check_divisible(batch_size, strategy.microbatches, f"strategy.microbatches={strategy.microbatches}")
    if isinstance(strategy, Pipeline1F1B) and strategy.microbatches < num_ranks:
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
