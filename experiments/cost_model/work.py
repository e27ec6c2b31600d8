"""What a cell asks of its processes: the network's stages, and the bytes of a step, counted from first principles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from partrain import checks
from partrain.comparison.grid import COMPARED_STRATEGIES, SEQUENTIAL, Cell
from partrain.device import num_cores
from partrain.networks import Chain, NetworkSettings
from partrain.partition.cost import measure_costs
from partrain.partition.plan import PartitionSettings, make_plan
from partrain.runs.prepare import cuts_of
from partrain.settings import RunSettings
from partrain.strategies.settings import REPLICAS

GRADIENT_BYTES = 4  # gradients are in fp32 whatever the products are computed in


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a process holds of the network, costs per image. `first_flops`: its first layer's share of `flops`."""

    layers: int
    parameters: int
    flops: int
    first_flops: int
    activation_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def joined(stages: Sequence[Stage]) -> Stage:
    """Neighbours as one."""
    return Stage(
        layers=sum(stage.layers for stage in stages),
        parameters=sum(stage.parameters for stage in stages),
        flops=sum(stage.flops for stage in stages),
        first_flops=stages[0].first_flops,
        activation_bytes=sum(stage.activation_bytes for stage in stages),
        input_shape=stages[0].input_shape,
        output_shape=stages[-1].output_shape,
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training's steps: one of `stages` per process, or one that all `processes` hold.

    `feature_bytes`: of a value that a layer gives out, and of a weight gathered for it: 2 in bf16, 4 in fp32.
    """

    strategy: str
    stages: tuple[Stage, ...]
    processes: int
    batch_size: int
    microbatches: int
    num_classes: int
    feature_bytes: int


@dataclass(frozen=True, kw_only=True)
class System:
    """What processes run on: `cores` that they share, or a device each (None).

    `nccl`: bytes move while devices compute, the rounds of collective operations grow with the logarithm of the number
    of processes, and reduce-scatter is an operation of its own. Without it they are gloo's: bytes are moved by the
    cores, in rings, and a reduce-scatter is an all-reduce (github.com/pytorch/pytorch/pull/118911).
    """

    cores: int | None
    nccl: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What all cells of a comparison have in common. `precision` as results.json says it: bf16 or fp32."""

    precision: str
    shared: RunSettings = field(default_factory=RunSettings)
    input_shape: tuple[int, ...] = (1, 28, 28)
    num_classes: int = 47
    system: System = field(default_factory=lambda: System(cores=num_cores()))

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, ("bf16", "fp32"))

    @property
    def feature_bytes(self) -> int:
        return 2 if self.precision == "bf16" else 4

    def work(self, cell: Cell) -> Work:
        """What `cell` asks of its processes.

        Raises:
            ValueError: its strategy is none that the model knows, or its network cannot be cut so.
        """
        checks.one_of("strategy", cell.strategy, [name for name in COMPARED_STRATEGIES if name != SEQUENTIAL])
        whole = cell.strategy in ("end_to_end", *REPLICAS)
        cut = replace(cell, strategy="end_to_end" if whole else "synthetic", segments=1 if whole else cell.segments)
        return Work(
            strategy=cell.strategy,
            stages=_stages(self, replace(cut, microbatches=None)),
            processes=cell.segments,
            batch_size=cell.batch_size,
            microbatches=cell.microbatches or 1,
            num_classes=self.num_classes,
            feature_bytes=self.feature_bytes,
        )


@lru_cache(maxsize=1024)
def _stages(setting: Setting, cell: Cell) -> tuple[Stage, ...]:
    """Of `cell`, whose strategy stands for all that cut the network as it does."""
    settings = cell.settings(setting.shared, 0)
    return make_stages(
        settings.network, setting.input_shape, setting.num_classes, cuts_of(settings), settings.train.batch_size
    )


def make_stages(
    network: NetworkSettings,
    input_shape: Sequence[int],
    num_classes: int,
    partition: PartitionSettings,
    batch_size: int = 1,
) -> tuple[Stage, ...]:
    """The stages of a network's plan; the arguments are `make_plan`'s."""
    first_flops = _layer_flops(network, input_shape, num_classes)
    return tuple(
        Stage(
            layers=len(segment.layers),
            parameters=segment.parameters,
            flops=segment.flops,
            first_flops=first_flops[segment.layers[0]],
            activation_bytes=segment.activation_bytes,
            input_shape=tuple(segment.input_shape),
            output_shape=tuple(segment.output_shape),
        )
        for segment in make_plan(network, input_shape, num_classes, partition, batch_size).segments
    )


def _layer_flops(network: NetworkSettings, input_shape: Sequence[int], num_classes: int) -> dict[str, int]:
    """Per image and layer, forward."""
    chain = Chain.build(network, input_shape, num_classes)
    costs = measure_costs(chain, input_shape)
    return {
        layer.name: sum(costs[node.name].flops for node in chain.nodes[layer.start : layer.stop])
        for layer in chain.layers
    }


def traffic_bytes(work: Work, system: System) -> float:
    """Bytes that all processes together send in a step."""
    return sum(map(sum, (sent_bytes(work, system, index) for index in range(work.processes))))


def sent_bytes(work: Work, system: System, index: int) -> tuple[float, float]:
    """Bytes that process `index` sends in a step: to its neighbours, in collective operations."""
    if work.strategy in REPLICAS:
        others, parameters = (work.processes - 1) / work.processes, work.stages[0].parameters
        if work.strategy == "data_parallel":
            return 0.0, 2 * others * GRADIENT_BYTES * parameters
        # gathered for the forward pass, once more for the backward pass (only the root, which has no weights, is kept)
        reduced = GRADIENT_BYTES if system.nccl else 2 * GRADIENT_BYTES
        return 0.0, others * parameters * (2 * work.feature_bytes + reduced)
    return work.batch_size * work.feature_bytes * sum(boundaries(work, index)), 0.0


def boundaries(work: Work, index: int) -> list[int]:
    """Values per image of every message that stage `index` sends: to its right, and back to its left."""
    if work.strategy in ("synthetic", "end_to_end"):
        return []
    stage = work.stages[index]
    right = [math.prod(stage.output_shape)] if index + 1 < len(work.stages) else []
    left = [math.prod(stage.input_shape)] if index > 0 and work.strategy != "decoupled" else []
    return right + left
