"""A training step counted from first principles: what each process computes, sends and waits for.

Counts are vectors with an entry for each of `Constants`. Counts times constants are seconds. A step takes as long as the
longest of a few paths through it: one for each process, and one for all work that shared cores have to do.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.workload import GRADIENT_BYTES, Stage, System, Workload, sent_bytes, sent_values
from partrain.launch.processes import divide_cores
from partrain.strategies.settings import PIPELINES, REPLICAS

Counts = NDArray[np.float64]
"""How often each constant counts, [constants]."""

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20  # bytes of gradients that DistributedDataParallel reduces at once


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The seconds that one unit of each kind of work takes. None is negative."""

    flop: float
    """Seconds per floating-point operation of a core or device."""
    weight: float
    """Seconds per weight that a matrix product reads or writes, however many rows it has.

    Products of few rows thereby cost more per operation.
    """
    activation: float
    """Seconds per byte of activations."""
    optimizer: float
    """Seconds per parameter that the optimiser updates."""
    layer: float
    """Seconds per layer that is called, forward and backward."""
    fork: float
    """Seconds per layer whose work several threads share."""
    step: float
    """Seconds per step of a process."""
    microbatch: float
    """Seconds per microbatch of a pipeline's stage."""
    unit: float
    """Seconds per layer that FSDP shards."""
    message: float
    """Seconds per message to a neighbour."""
    byte: float
    """Seconds per byte of a message to a neighbour."""
    round: float
    """Seconds per round of a collective operation."""
    collective_byte: float
    """Seconds per byte sent in a collective operation, with its copies and sums."""


NAMES = tuple(field.name for field in fields(Constants))
_IS_SHARED_BY_THREADS = np.isin(NAMES, ("flop", "weight", "activation", "optimizer"))
_IS_CORE_WORK = ~np.isin(NAMES, ("message", "round"))  # A core is idle while a process waits for a message.


class _ProcessCounts(NamedTuple):
    """The counts of one process's step."""

    compute: Counts
    communication: Counts
    exposed: Counts
    """The part of `compute` during which no bytes can move."""
    bubble: Counts
    """The time for which the process waits for other stages."""


def step_counts(workload: Workload, system: System) -> NDArray[np.float64]:
    """Return the counts of every path through a step, [paths, 3, constants].

    The middle axis is computation, communication and bubble. The step takes as long as the path with the largest sum.
    On shared cores a process has the threads that the launcher gives it, and a segment that trains alone has all cores.
    """
    processes = _process_counts(workload, system)
    paths = []
    for process, threads in zip(processes, _threads(workload, system), strict=True):
        paths += _paths(process, threads, system)
    if system.cores is not None:
        paths.append(_shared_cores_path(processes, system.cores))
    return np.unique(np.array(paths), axis=0)


def _process_counts(workload: Workload, system: System) -> list[_ProcessCounts]:
    if workload.strategy in REPLICAS:
        return [_replica_counts(workload, system)] * workload.processes
    if workload.strategy in ("synthetic", "end_to_end", "decoupled"):
        return [_segment_counts(workload, system, index) for index in range(len(workload.stages))]
    return _pipeline_counts(workload, system)


def _threads(workload: Workload, system: System) -> list[int]:
    """Return how many threads each process computes with."""
    if system.cores is None:
        return [1] * workload.processes
    if workload.strategy in ("synthetic", "end_to_end"):
        return [system.cores] * workload.processes
    costs = [stage.flops for stage in workload.stages] * (workload.processes if workload.strategy in REPLICAS else 1)
    return divide_cores(system.cores, costs)


def _paths(process: _ProcessCounts, threads: int, system: System) -> list[tuple[Counts, Counts, Counts]]:
    """Return the paths through a process's step, each as computation, communication and bubble."""
    compute = _with_threads(process.compute, threads)
    exposed = _with_threads(process.exposed, threads)
    bubble = _with_threads(process.bubble, threads)
    if not system.nccl:
        return [(compute, process.communication, bubble)]

    # Computation and communication overlap, but for the exposed part, so that the longer of the two counts:
    #
    #     compute        ├── exposed ──┤────────────┤
    #     communication                ├────────────────────┤
    return [(compute, _count(), bubble), (exposed, process.communication, bubble)]


def _with_threads(counts: Counts, threads: int) -> Counts:
    """Return the counts of work that a process does with so many threads."""
    shared = np.where(_IS_SHARED_BY_THREADS, counts / threads, counts)
    return shared + _count(fork=counts[NAMES.index("layer")] if threads > 1 else 0)


def _shared_cores_path(processes: list[_ProcessCounts], cores: int) -> tuple[Counts, Counts, Counts]:
    """Return the path on which the cores, never idle, do the work of all processes."""
    compute = sum((process.compute for process in processes), _count())
    communication = sum((process.communication for process in processes), _count())
    return compute * _IS_CORE_WORK / cores, communication * _IS_CORE_WORK / cores, _count()


# ---- The counts of one process, by strategy.


def _replica_counts(workload: Workload, system: System) -> _ProcessCounts:
    """Return the counts of a process that trains the whole network on its part of the batch."""
    (stage,), processes = workload.stages, workload.processes
    training = _training_counts(stage, workload.batch_size / processes, needs_input_gradient=False)
    per_step = _per_step_counts(stage)
    _, sent = sent_bytes(workload, system, 0)
    # The rounds of a gather. An all-reduce takes twice as many.
    rounds = math.ceil(math.log2(processes)) if system.nccl else processes - 1

    if workload.strategy == "data_parallel":
        buckets = 1 + math.ceil(max(0, GRADIENT_BYTES * stage.parameters - _FIRST_BUCKET) / _BUCKET)
        communication = _count(collective_byte=sent, round=2 * rounds * buckets)
        forward = training / 3
        return _ProcessCounts(training + per_step, communication, forward + per_step, _count())

    operations = 3 if system.nccl else 4
    communication = _count(collective_byte=sent, round=operations * rounds * stage.layers, unit=stage.layers)
    return _ProcessCounts(training + per_step, communication, per_step, _count())


def _segment_counts(workload: Workload, system: System, index: int) -> _ProcessCounts:
    """Return the counts of a process that does not wait for others within a step."""
    stage = workload.stages[index]
    compute = _training_counts(stage, workload.batch_size, needs_input_gradient=False) + _per_step_counts(stage)
    if workload.strategy == "synthetic":
        compute = compute + _code_counts(workload, index)
    if workload.strategy == "decoupled":
        compute = compute + _classifier_counts(workload, index)
    sent, _ = sent_bytes(workload, system, index)
    communication = _count(byte=sent, message=len(sent_values(workload, index)))
    return _ProcessCounts(compute, communication, _count(), _count())


def _pipeline_counts(workload: Workload, system: System) -> list[_ProcessCounts]:
    """Return the counts of a pipeline's processes.

    A batch goes through the stages in microbatches. The time that one of them spends in all other stages is every
    stage's bubble.
    """
    is_pipeline = workload.strategy in PIPELINES  # Model parallelism is a pipeline of one microbatch.
    microbatches = workload.microbatches if is_pipeline else 1
    per_microbatch = _count(microbatch=1 if is_pipeline else 0)
    costs = []
    for index, stage in enumerate(workload.stages):
        training = _training_counts(stage, workload.batch_size / microbatches, needs_input_gradient=index > 0)
        sent, _ = sent_bytes(workload, system, index)
        communication = _count(byte=sent / microbatches, message=len(sent_values(workload, index)))
        costs.append((training + per_microbatch, communication))

    through_all_stages: Counts = np.sum(costs, axis=(0, 1))
    return [
        _ProcessCounts(
            compute=microbatches * training + _per_step_counts(stage),
            communication=microbatches * communication,
            exposed=_per_step_counts(stage),
            bubble=through_all_stages - training - communication,
        )
        for stage, (training, communication) in zip(workload.stages, costs, strict=True)
    ]


# ---- Counts of parts of a step.


def _count(**numbers: float) -> Counts:
    """Return the vector of counts that has these `numbers`, by name, and zeros."""
    return np.array([numbers.get(name, 0.0) for name in NAMES])


def _training_counts(stage: Stage, rows: float, *, needs_input_gradient: bool) -> Counts:
    """Return the counts of a forward and backward pass for `rows` images.

    The gradient of the weights costs as much as the forward pass, and the gradient of a layer's input as much again.
    The first layer's input gradient is left out where nothing needs it.
    """
    passes = 3 - (0 if needs_input_gradient or not stage.flops else stage.first_flops / stage.flops)
    return _count(
        flop=rows * stage.flops * passes,
        weight=stage.parameters * passes,
        activation=rows * stage.activation_bytes,
        layer=stage.layers,
    )


def _per_step_counts(stage: Stage) -> Counts:
    """Return the counts of what a process does once per step, whatever the batch."""
    return _count(step=1, optimizer=stage.parameters)


def _code_counts(workload: Workload, index: int) -> Counts:
    """Return the counts of synthetic-label training that are beside the segment's own layers.

    Input samples are drawn by a product with the codes. Outputs are compared with codes, whose gradient goes back.
    """
    stage, rows = workload.stages[index], workload.batch_size
    drawn = 0 if index == 0 else math.prod(stage.input_shape)
    compared = 0 if index + 1 == len(workload.stages) else math.prod(stage.output_shape)
    return _count(
        flop=2 * rows * workload.num_classes * (drawn + 2 * compared), activation=4 * rows * (drawn + compared)
    )


def _classifier_counts(workload: Workload, index: int) -> Counts:
    """Return the counts of decoupled learning's classifier, which every stage but the last has behind it.

    Feature maps are pooled to 2×2 before it.
    """
    if index + 1 == len(workload.stages):
        return _count()
    shape = workload.stages[index].output_shape
    values = 4 * shape[0] if len(shape) == 3 else math.prod(shape)
    weights = values * workload.num_classes
    flops = 6 * workload.batch_size * weights
    return _count(
        flop=flops, weight=3 * weights, optimizer=weights, layer=1, activation=4 * workload.batch_size * values
    )
