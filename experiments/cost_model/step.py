"""A training step counted from first principles: what each process computes, sends and waits for.

Counts are vectors over `Constants`; times its values they are seconds. How long the step takes is the largest of a few
such sums: of every process's own way through the step, and of all work that shared cores have to do.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.work import GRADIENT_BYTES, Stage, System, Work, boundaries, sent_bytes
from partrain.launch.placement import divide
from partrain.strategies.settings import PIPELINES, REPLICAS

Counts = NDArray[np.float64]

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20  # bytes of gradients that DistributedDataParallel reduces at once


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Seconds per unit of work, none negative.

    Of one core or device: `flop` per floating-point operation; `weight` per weight that a matrix product reads or
    writes, whatever its rows, so that products of few rows cost more per operation; `activation` per byte of
    activations; `optimizer` per parameter; `layer` per layer called forward and back; `fork` per layer that several
    threads share; `step` per step of a process; `microbatch` per microbatch of a pipeline's stage; `unit` per layer
    sharded by FSDP.
    Of the links: `message` per message to a neighbour; `byte` per byte of it; `round` per round of a collective
    operation; `collective_byte` per byte sent in it, with the copies and sums that go with it.
    """

    flop: float
    weight: float
    activation: float
    optimizer: float
    layer: float
    fork: float
    step: float
    microbatch: float
    unit: float
    message: float
    byte: float
    round: float
    collective_byte: float


NAMES = tuple(field.name for field in fields(Constants))
_BY_THREADS = np.isin(NAMES, ("flop", "weight", "activation", "optimizer"))  # what a process's threads share
_BUSY = ~np.isin(NAMES, ("message", "round"))  # what takes a core; the others are waited for


class _Process(NamedTuple):
    """A process's step. `exposed`: the part of `compute` behind which no bytes can move; `bubble`: waits for others."""

    compute: Counts
    communication: Counts
    exposed: Counts
    bubble: Counts


def _count(**numbers: float) -> Counts:
    return np.array([numbers.get(name, 0.0) for name in NAMES])


def _learn(stage: Stage, rows: float, input_gradient: bool) -> Counts:
    """Forward and back for `rows` images: as much again for the weights' gradient, and again for the input's."""
    passes = 3 - (0 if input_gradient or not stage.flops else stage.first_flops / stage.flops)
    return _count(
        flop=rows * stage.flops * passes,
        weight=stage.parameters * passes,
        activation=rows * stage.activation_bytes,
        layer=stage.layers,
    )


def _own(stage: Stage) -> Counts:
    """What a process does once a step."""
    return _count(step=1, optimizer=stage.parameters)


def _codes(work: Work, index: int) -> Counts:
    """Synthetic samples drawn (a product with the codes), and outputs compared with codes, whose gradient goes back."""
    stage, rows = work.stages[index], work.batch_size
    drawn = 0 if index == 0 else math.prod(stage.input_shape)
    compared = 0 if index + 1 == len(work.stages) else math.prod(stage.output_shape)
    return _count(flop=2 * rows * work.num_classes * (drawn + 2 * compared), activation=4 * rows * (drawn + compared))


def _classifier(work: Work, index: int) -> Counts:
    """Decoupled learning's classifier behind every stage but the last; feature maps are pooled to 2×2 before it."""
    if index + 1 == len(work.stages):
        return _count()
    shape = work.stages[index].output_shape
    values = 4 * shape[0] if len(shape) == 3 else math.prod(shape)
    weights = values * work.num_classes
    flops = 6 * work.batch_size * weights
    return _count(flop=flops, weight=3 * weights, optimizer=weights, layer=1, activation=4 * work.batch_size * values)


def _replica(work: Work, system: System) -> _Process:
    (stage,), number = work.stages, work.processes
    learn, own = _learn(stage, work.batch_size / number, input_gradient=False), _own(stage)
    _, sent = sent_bytes(work, system, 0)
    rounds = math.ceil(math.log2(number)) if system.nccl else number - 1  # of a gather; an all-reduce takes two of them
    if work.strategy == "data_parallel":
        buckets = 1 + math.ceil(max(0, GRADIENT_BYTES * stage.parameters - _FIRST_BUCKET) / _BUCKET)
        moved = _count(collective_byte=sent, round=2 * rounds * buckets)
        return _Process(learn + own, moved, learn / 3 + own, _count())  # a third of it is forward
    operations = 3 if system.nccl else 4
    moved = _count(collective_byte=sent, round=operations * rounds * stage.layers, unit=stage.layers)
    return _Process(learn + own, moved, own, _count())


def _segment(work: Work, system: System, index: int) -> _Process:
    """Of the strategies whose processes do not wait for one another within a step."""
    learn, own = _learn(work.stages[index], work.batch_size, input_gradient=False), _own(work.stages[index])
    extra = {"synthetic": _codes, "decoupled": _classifier}.get(work.strategy)
    compute = learn + own + (extra(work, index) if extra else 0)
    sent, _ = sent_bytes(work, system, index)
    return _Process(compute, _count(byte=sent, message=len(boundaries(work, index))), _count(), _count())


def _pipeline(work: Work, system: System) -> list[_Process]:
    """A batch goes through the stages in pieces: one piece's way through all others is every stage's bubble."""
    pieces = work.microbatches if work.strategy in PIPELINES else 1
    extra = _count(microbatch=1 if work.strategy in PIPELINES else 0)
    steps = []
    for index, stage in enumerate(work.stages):
        sent, _ = sent_bytes(work, system, index)
        moved = _count(byte=sent / pieces, message=len(boundaries(work, index)))
        steps.append((_learn(stage, work.batch_size / pieces, input_gradient=index > 0) + extra, moved))
    way: Counts = np.sum(steps, axis=(0, 1))
    return [
        _Process(pieces * learn + _own(stage), pieces * moved, _own(stage), way - learn - moved)
        for stage, (learn, moved) in zip(work.stages, steps, strict=True)
    ]


def step_counts(work: Work, system: System) -> NDArray[np.float64]:
    """Compute, communication and bubble, [ways, 3, constants]: the step takes the way whose sum is the largest.

    On shared cores a process has threads as the launcher gives them (a segment that trains alone has all), and all
    processes' work over the cores is one more way.
    """
    if work.strategy in REPLICAS:
        processes = [_replica(work, system)] * work.processes
    elif work.strategy in ("synthetic", "end_to_end", "decoupled"):
        processes = [_segment(work, system, index) for index in range(len(work.stages))]
    else:
        processes = _pipeline(work, system)
    ways = []
    for process, threads in zip(processes, _threads(work, system), strict=True):
        compute, exposed, bubble = (
            _threaded(part, threads) for part in (process.compute, process.exposed, process.bubble)
        )
        if system.nccl:
            ways += [(compute, _count(), bubble), (exposed, process.communication, bubble)]
        else:
            ways += [(compute, process.communication, bubble)]
    if system.cores is not None:
        compute, moved = (sum(part, _count()) * _BUSY / system.cores for part in list(zip(*processes, strict=True))[:2])
        ways.append((compute, moved, _count()))
    return np.unique(np.array(ways), axis=0)


def _threads(work: Work, system: System) -> list[int]:
    if system.cores is None:
        return [1] * work.processes
    if work.strategy in ("synthetic", "end_to_end"):
        return [system.cores] * work.processes
    costs = [stage.flops for stage in work.stages] * (work.processes if work.strategy in REPLICAS else 1)
    return divide(system.cores, costs)


def _threaded(counts: Counts, threads: int) -> Counts:
    shared = np.where(_BY_THREADS, counts / threads, counts)
    return shared + _count(fork=counts[NAMES.index("layer")] if threads > 1 else 0)
