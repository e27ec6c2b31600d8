"""What the scheduler's process and the workers say to one another: plain data, arrays of numpy's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partrain.shards.layout import Layout, Place
from partrain.shards.scheduler import Unit
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """`budget` in bytes. `threads` to compute with. `separate`: see `DeviceMemory`. `scratch`: folders that go with it."""

    device: str
    budget: int
    threads: int
    separate: bool
    double_buffer: bool
    scratch: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """A shard: the part of a task's network between two cuts (None: where the task itself begins or ends).

    `layout` is that of the `file` in host memory; `work_bytes` is what a device needs besides to compute it.
    """

    start: str | None
    stop: str | None
    layout: Layout
    file: Path
    work_bytes: int


@dataclass(frozen=True, kw_only=True)
class CrossingSpec:
    """Between two shards: a tensor goes right and its gradient left, both in the `file` in host memory."""

    file: Path
    output: Place
    gradient: Place


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model: `task` in its `folder`, cut into `shards`. `decay`: where its settings leave that open."""

    folder: Path
    task: SegmentTask
    decay: float
    shards: tuple[ShardSpec, ...]
    crossings: tuple[CrossingSpec, ...]
    keep: bool


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A unit to be done: a shard visits a device.

    `version`: of the shard's state in host memory. `rate`: the step's learning rate. `indices` [batch] into the images.
    `random`: the state of the generator that dropout draws from at the shard's beginning, or what it is seeded with.
    `targets`: what the model's output is held to, once its first shard has been forward.
    `look`, `last`: as in `Step`. `decoded`: how many outputs were right in the epoch so far, and how many were looked at.
    """

    unit: Unit
    version: int
    rate: float
    indices: NDArray[np.int64]
    random: NDArray[np.uint8] | int
    targets: NDArray[np.generic] | None
    look: bool
    last: bool
    decoded: tuple[float, float]


@dataclass(kw_only=True)
class Outcome:
    """What came of a visit. `random`: the generator's state behind a forward pass. `targets`: of a first shard's.

    `cold`: the worker had the shard for the first time, so that its seconds tell little. `decoded`: as in `Visit`, now.
    `loaded`, `computed`, `stored`: when each began and ended, seconds since 1970. `bytes_in`: copied to the device for it.
    `peak_bytes`: what the worker has held at most.
    """

    unit: Unit
    random: NDArray[np.uint8] | None = None
    targets: NDArray[np.generic] | None = None
    loss: float | None = None
    decoded: tuple[float, float] | None = None
    warning: str = ""
    cold: bool = False
    loaded: tuple[float, float] = (0.0, 0.0)
    computed: tuple[float, float] = (0.0, 0.0)
    stored: tuple[float, float] = (0.0, 0.0)
    bytes_in: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A model cannot go on. `error` is written to its folder."""

    unit: Unit
    error: Exception


@dataclass(frozen=True)
class Welcome:
    """The model is to be trained from now on, or again from its checkpoint."""

    model: int
    spec: ModelSpec


@dataclass(frozen=True)
class Prefetch:
    """A shard that the worker will be asked for next is at `version`; a `backward` pass needs all of its bytes."""

    model: int
    shard: int
    version: int
    backward: bool


@dataclass(frozen=True)
class Forget:
    """A model has ended, failed, or goes on from its checkpoint: nothing of it that a worker holds counts any more."""

    model: int
