"""The messages between the scheduler's process and the worker processes: plain data, with NumPy arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partrain.shards.layout import CrossingSlots, ShardLayout, TensorSlot
from partrain.shards.scheduler import Cost, Unit
from partrain.training.task import SegmentTask

# ---- A model, as workers see it.


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of a device's worker process."""

    device: str
    """The name of the device to compute on."""
    budget_bytes: int
    """Device memory that the worker may use, in bytes."""
    threads: int
    """CPU threads to compute with, 1 or more."""
    uses_separate_buffers: bool
    """Whether shards are copied between host memory and buffers of the device, instead of computed in host memory."""
    double_buffer: bool
    """Whether the next shard is copied in and the last one out while one computes."""
    scratch_folders: tuple[Path, ...] = ()
    """Folders that the worker removes if the scheduler's process is gone."""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """A shard: the part of a task's network between two cuts."""

    start: str | None
    """The name of the cut before the shard, or None if the task itself begins there."""
    stop: str | None
    """The name of the cut after the shard, or None if the task itself ends there."""
    layout: ShardLayout
    """Where each tensor of the shard is in the bytes of `file`."""
    file: Path
    """The file in host memory that holds the shard's weights, buffers and optimiser state."""
    workspace_bytes: int
    """Bytes of activations, gradients and temporaries that one unit of the shard needs besides."""


@dataclass(frozen=True, kw_only=True)
class CrossingSpec:
    """The tensors that cross between two neighbouring shards, both in one file in host memory."""

    file: Path
    output: TensorSlot
    """Where the left shard's output is."""
    gradient: TensorSlot
    """Where the gradient of that output is, which the right shard computes."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model and its cut into shards."""

    folder: Path
    """The task's folder."""
    task: SegmentTask
    """The task, with the worker's device."""
    default_decay: float
    """The weight decay if the task's settings leave that open."""
    shards: tuple[ShardSpec, ...]
    crossings: tuple[CrossingSpec, ...]
    """The tensors between shard n and shard n + 1, for each n."""
    keeps_activations: bool
    """Whether activations are kept for the backward pass. Otherwise the backward pass computes them again."""


# ---- From the scheduler to a worker.


@dataclass(frozen=True)
class AddModel:
    """A request to train a model from now on, from its beginning or again from its checkpoint."""

    model_id: int
    spec: ModelSpec


@dataclass(frozen=True)
class RemoveModel:
    """A request to forget a model, which has ended, failed or gone back to its checkpoint."""

    model_id: int


@dataclass(frozen=True)
class Prefetch:
    """A request to copy a shard to the device that a unit is likely to need next."""

    model_id: int
    shard: int
    version: int
    """The version of the shard's bytes in host memory."""
    is_backward: bool
    """Whether the unit has a backward pass, which needs the optimiser's state besides the weights."""


@dataclass(frozen=True, kw_only=True)
class UnitRequest:
    """A request to compute one unit."""

    unit: Unit
    version: int
    """The version of the shard's bytes in host memory. A copy of another version on the device is out of date."""
    learning_rate: float
    indices: NDArray[np.int64]
    """The batch, as indices into the training images [batch]."""
    rng_state: NDArray[np.uint8] | int
    """The generator's state at the beginning of the shard's forward pass, or, for the first shard, a seed."""
    targets: NDArray[np.generic] | None
    """The batch's targets, for the last shard. The first shard's forward pass returned them."""
    is_logged: bool
    """Whether decode accuracy is measured, as in `Step.is_logged`."""
    ends_epoch: bool
    """Whether the step is the last of its epoch."""
    decode_counts: tuple[float, float]
    """How many outputs of the epoch so far decoded correctly, and how many were measured."""


@dataclass(frozen=True)
class ProfileRequest:
    """A request to try a few steps of a model that is not in training yet."""

    spec: ModelSpec
    """The model. The files of its shards hold a copy of its tensors, which the steps change. It has no crossings."""


Message = AddModel | RemoveModel | Prefetch | UnitRequest | ProfileRequest
"""Any message from the scheduler to a worker."""

# ---- From a worker to the scheduler.


@dataclass(kw_only=True)
class UnitResult:
    """The result of a unit. A span is a (begin, end) pair of times, in seconds since 1970."""

    unit: Unit
    rng_state: NDArray[np.uint8] | None = None
    """The generator's state after a forward pass, which the next shard's begins with."""
    targets: NDArray[np.generic] | None = None
    """The batch's targets, from the first shard's forward pass."""
    loss: float | None = None
    """The mean loss of the batch, from the last shard."""
    decode_counts: tuple[float, float] | None = None
    """The counts of `UnitRequest` with this batch added, from the last shard at a logged step."""
    warning: str = ""
    """The warning about the output at an epoch's end, or an empty text."""
    is_cold: bool = False
    """Whether the worker computed the shard for the first time, so that its seconds are no measure of later ones."""
    load_span: tuple[float, float] = (0.0, 0.0)
    """When the shard and its inputs were copied to the device."""
    compute_span: tuple[float, float] = (0.0, 0.0)
    """When the unit was computed."""
    store_span: tuple[float, float] = (0.0, 0.0)
    """When the shard and its outputs were copied back to host memory."""
    bytes_loaded: int = 0
    """Bytes of the shard that had to be copied to the device."""
    peak_bytes: int = 0
    """The most bytes that the worker has held on its device so far."""


@dataclass(frozen=True, kw_only=True)
class UnitFailure:
    """The report that a unit raised an error, so that its model cannot be trained further."""

    unit: Unit
    error: Exception


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """The measured needs of one step of a model."""

    workspace_bytes: tuple[int, ...]
    """For each shard, the bytes that computing it takes besides its own: activations, gradients and temporaries."""
    costs: tuple[Cost, ...]
    """The seconds that each unit takes, in the order of units."""
    crossings: tuple[CrossingSlots, ...]
    """The tensors between each shard and the next one."""


@dataclass(frozen=True)
class ProfileProgress:
    """The report that one more unit of a trial step is computed, so that the worker is not stuck."""


@dataclass(frozen=True)
class ProfileResult:
    """The result of a trial."""

    outcome: StepProfile | Exception
    """What a step takes, or the error that it raised."""


Answer = UnitResult | UnitFailure | ProfileProgress | ProfileResult
"""Any message from a worker to the scheduler."""
