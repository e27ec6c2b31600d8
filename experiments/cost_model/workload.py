"""The workload of a compared cell: the network's stages, and the bytes of a step, counted from first principles."""

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
from partrain.runs.prepare import partition_settings
from partrain.settings import RunSettings
from partrain.strategies.settings import REPLICAS

GRADIENT_BYTES = 4
"""Bytes of one number of a gradient. Gradients are fp32 in every precision."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The part of a network that one process holds, and what it costs per image."""

    layers: int
    parameters: int
    flops: int
    """Floating-point operations of a forward pass, per image."""
    first_flops: int
    """The part of `flops` that the stage's first layer takes."""
    activation_bytes: int
    """Bytes kept for the backward pass, per image."""
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def join_stages(stages: Sequence[Stage]) -> Stage:
    """Return the stage that neighbouring `stages`, given from left to right, are together."""
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
class Workload:
    """The steps of a training, as far as their cost depends on them."""

    strategy: str
    stages: tuple[Stage, ...]
    """A stage for each process, or the one stage that all processes hold a replica of."""
    processes: int
    batch_size: int
    """Images of a step, over all processes."""
    microbatches: int
    num_classes: int
    feature_bytes: int
    """Bytes of one number in an activation or a gathered weight: 2 in bf16, 4 in fp32."""


@dataclass(frozen=True, kw_only=True)
class System:
    """The cores or devices that processes run on, and how they communicate.

    With NCCL, bytes move while devices compute. The rounds of a collective operation grow with the logarithm of the
    number of processes, and reduce-scatter is an operation of its own.

    Without it processes use gloo. Cores move the bytes, in rings, and a reduce-scatter costs an all-reduce
    (github.com/pytorch/pytorch/pull/118911).
    """

    cores: int | None
    """The number of cores that all processes share. None: every process has a device of its own."""
    nccl: bool = False
    """Whether processes communicate by NCCL instead of gloo."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonSetup:
    """The conditions that all cells of a comparison share."""

    precision: str
    """The precision that results.json names: bf16 or fp32."""
    shared: RunSettings = field(default_factory=RunSettings)
    """The settings that all cells share."""
    input_shape: tuple[int, ...] = (1, 28, 28)
    num_classes: int = 47
    system: System = field(default_factory=lambda: System(cores=num_cores()))

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, ("bf16", "fp32"))

    @property
    def feature_bytes(self) -> int:
        """Return the bytes of one number in an activation or a gathered weight."""
        return 2 if self.precision == "bf16" else 4

    def workload(self, cell: Cell) -> Workload:
        """Return the workload of `cell`.

        Raises:
            UserError: If the cost model does not cover the cell's strategy, or its network cannot be cut so.
        """
        checks.one_of("strategy", cell.strategy, [name for name in COMPARED_STRATEGIES if name != SEQUENTIAL])
        return Workload(
            strategy=cell.strategy,
            stages=_stages(self, _cell_with_same_cuts(cell)),
            processes=cell.segments,
            batch_size=cell.batch_size,
            microbatches=cell.microbatches or 1,
            num_classes=self.num_classes,
            feature_bytes=self.feature_bytes,
        )


def _cell_with_same_cuts(cell: Cell) -> Cell:
    """Return one cell for all those that cut the network alike, so that `_stages` plans it once."""
    is_whole = cell.strategy in ("end_to_end", *REPLICAS)
    strategy, segments = ("end_to_end", 1) if is_whole else ("synthetic", cell.segments)
    return replace(cell, strategy=strategy, segments=segments, microbatches=None)


@lru_cache(maxsize=1024)
def _stages(setup: ComparisonSetup, cell: Cell) -> tuple[Stage, ...]:
    settings = cell.settings(setup.shared, 0)
    return make_stages(
        settings.network, setup.input_shape, setup.num_classes, partition_settings(settings), settings.train.batch_size
    )


def make_stages(
    network: NetworkSettings,
    input_shape: Sequence[int],
    num_classes: int,
    partition: PartitionSettings,
    batch_size: int = 1,
) -> tuple[Stage, ...]:
    """Plan how to cut a network, and return its stages from left to right. The arguments are those of `make_plan`."""
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
    """Return the floating-point operations of every layer's forward pass, per image, by the layer's name."""
    chain = Chain.build(network, input_shape, num_classes)
    costs = measure_costs(chain, input_shape)
    return {
        layer.name: sum(costs[node.name].flops for node in chain.nodes[layer.start : layer.stop])
        for layer in chain.layers
    }


def traffic_bytes(workload: Workload, system: System) -> float:
    """Return the bytes that all processes together send in a step."""
    return sum(sum(sent_bytes(workload, system, index)) for index in range(workload.processes))


def sent_bytes(workload: Workload, system: System, index: int) -> tuple[float, float]:
    """Return the bytes that process `index` sends in a step: to its neighbours, and in collective operations."""
    if workload.strategy in REPLICAS:
        return 0.0, _collective_bytes(workload, system)
    to_neighbours = workload.batch_size * workload.feature_bytes * sum(sent_values(workload, index))
    return to_neighbours, 0.0


def _collective_bytes(workload: Workload, system: System) -> float:
    """Return the bytes that one replica sends in a step."""
    others, parameters = (workload.processes - 1) / workload.processes, workload.stages[0].parameters
    if workload.strategy == "data_parallel":
        return 2 * others * GRADIENT_BYTES * parameters  # An all-reduce sends every number twice.

    # FSDP gathers weights for the forward pass and once more for the backward pass. It would keep only those of the root
    # module, which has none of its own.
    reduced = GRADIENT_BYTES if system.nccl else 2 * GRADIENT_BYTES
    return others * parameters * (2 * workload.feature_bytes + reduced)


def sent_values(workload: Workload, index: int) -> list[int]:
    """Return the size of each message of stage `index`, in numbers per image: to the right, then back to the left."""
    if workload.strategy in ("synthetic", "end_to_end"):
        return []
    stage = workload.stages[index]
    sends_right = index + 1 < len(workload.stages)
    sends_left = index > 0 and workload.strategy != "decoupled"

    values = []
    if sends_right:
        values.append(math.prod(stage.output_shape))
    if sends_left:
        values.append(math.prod(stage.input_shape))
    return values
