"""What the scheduler's process and the workers say to one another: plain data, arrays of numpy's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partrain.shards.layout import ShardLayout, TensorSlot
from partrain.shards.scheduler import Unit
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of a device's worker process."""

    device: str
    """The device to compute on: cpu or cuda:<n>."""
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
    """A shard: the part of a task's network between two cuts (None: where the task itself begins or ends).

    `layout` is that of the `file` in host memory; `workspace_bytes` is what a device needs besides to compute it.
    """

    start: str | None
    stop: str | None
    layout: ShardLayout
    file: Path
    workspace_bytes: int


@dataclass(frozen=True, kw_only=True)
class CrossingSpec:
    """Between two shards: a tensor goes right and its gradient left, both in the `file` in host memory."""

    file: Path
    output: TensorSlot
    gradient: TensorSlot


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model: `task` in its `folder`, cut into `shards`. `default_decay`: where its settings leave that open."""

    folder: Path
    task: SegmentTask
    default_decay: float
    shards: tuple[ShardSpec, ...]
    crossings: tuple[CrossingSpec, ...]
    keeps_activations: bool


@dataclass(frozen=True, kw_only=True)
class UnitRequest:
    """A unit to be done: a shard visits a device.

    `version`: of the shard's state in host memory. `learning_rate`: the step's learning rate. `indices` [batch] into
    the images.
    `rng_state`: the state of the generator that dropout draws from at the shard's beginning, or what it is seeded with.
    `targets`: what the model's output is held to, once its first shard has been forward.
    `is_logged`, `ends_epoch`: as in `Step`. `decode_counts`: how many outputs were right in the epoch so far, and
    how many were looked at.
    """

    unit: Unit
    version: int
    learning_rate: float
    indices: NDArray[np.int64]
    rng_state: NDArray[np.uint8] | int
    targets: NDArray[np.generic] | None
    is_logged: bool
    ends_epoch: bool
    decode_counts: tuple[float, float]


@dataclass(kw_only=True)
class UnitResult:
    """What came of a request. `rng_state`: the generator's state behind a forward pass. `targets`: of a first shard's.

    `is_cold`: the worker had the shard for the first time, so that its seconds tell little. `decode_counts`: as in
    `UnitRequest`, now.
    `load_span`, `compute_span`, `store_span`: when each began and ended, seconds since 1970. `bytes_loaded`: copied
    to the device for it.
    `peak_bytes`: what the worker has held at most.
    """

    unit: Unit
    rng_state: NDArray[np.uint8] | None = None
    targets: NDArray[np.generic] | None = None
    loss: float | None = None
    decode_counts: tuple[float, float] | None = None
    warning: str = ""
    is_cold: bool = False
    load_span: tuple[float, float] = (0.0, 0.0)
    compute_span: tuple[float, float] = (0.0, 0.0)
    store_span: tuple[float, float] = (0.0, 0.0)
    bytes_loaded: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class UnitFailure:
    """A model cannot go on. `error` is written to its folder."""

    unit: Unit
    error: Exception


@dataclass(frozen=True)
class AddModel:
    """The model is to be trained from now on, or again from its checkpoint."""

    model_id: int
    spec: ModelSpec


@dataclass(frozen=True)
class Prefetch:
    """A shard that the worker will be asked for next is at `version`; `is_backward`: a backward pass needs all of
    its bytes."""

    model_id: int
    shard: int
    version: int
    is_backward: bool


@dataclass(frozen=True)
class RemoveModel:
    """A model has ended, failed, or goes on from its checkpoint: nothing of it that a worker holds counts any more."""

    model_id: int
