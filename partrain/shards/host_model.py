"""A model in the scheduler's process: an ordinary training, whose steps are computed by workers, unit by unit.

Its tensors are in shared host memory, where workers read and write them. Metrics, checkpoints and results are therefore
written by the code that writes them for any training.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.shards.host_tensors import copy_to_files, move_to_files, shard_layouts
from partrain.shards.layout import ShardLayout
from partrain.shards.messages import ModelSpec, ShardSpec, UnitRequest, UnitResult
from partrain.shards.partitioner import CutNames
from partrain.shards.scheduler import Cost, Unit, num_units
from partrain.shards.simulator import Load
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining


class WorkerPeakMemory(PeakMemory):
    """A meter of the most bytes that a model's units took of a worker's device, in place of this process's memory."""

    def __init__(self) -> None:
        self.peak = 0

    def bytes(self, device: torch.device) -> int:
        """Return the most bytes that any worker has reported."""
        return self.peak


@dataclass
class _StepState:
    """A training step that is computed unit by unit, and what its later units need of the earlier ones."""

    step: Step
    rng_states: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """The random generator's state at the beginning of each shard's forward pass, by the shard's number."""
    targets: NDArray[np.generic] | None = None
    """The batch's targets, which the first shard's forward pass returns and the last one needs."""


class HostModel:
    """A model that is trained in shards: its training, its cut into shards, and the step that is computed now.

    Args:
        folder: The task's folder.
        name: The name that is shown of the model.
        context: The requests to stop.
        pause_after: The epoch after which training pauses, or None.
        threads: The CPU threads to initialise weights with, as a worker would; by default PyTorch's.

    Attributes:
        training: The training, resumed from its checkpoint if it has one.
        costs: What each unit of a step takes, once the model is placed.
        versions: How often each shard's bytes in host memory have changed, once the model is placed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        context: TrainingContext,
        pause_after: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.costs: list[Cost] = []
        self.versions: list[int] = []
        self._context = context
        self._pause_after = pause_after
        self._threads = threads
        self._memory = WorkerPeakMemory()
        self._spec: ModelSpec | None = None
        self.training = self._load_training()
        self._steps = self.training.steps()
        self._current = self._next_step()
        self._first_step = self.training.progress.step

    def _load_training(self) -> SegmentTraining:
        """Return the training as its latest checkpoint leaves it."""
        with _num_threads(self._threads):
            training = SegmentTraining(self.folder, self._context, self._memory, device=torch.device("cpu"))
        training.pause_after = self._pause_after
        training.model.train()
        return training

    def _next_step(self) -> _StepState | None:
        """Return the next step, or None after the last."""
        step = next(self._steps, None)
        return None if step is None else _StepState(step)

    @property
    def has_steps_left(self) -> bool:
        """Return whether any step is left until the training's end or pause."""
        return self._current is not None

    @property
    def remaining_steps(self) -> range:
        """Return the steps that are left until the training's end or pause."""
        return range(self.training.progress.step, self.training.last_step)

    # ---- The model in host memory.

    @property
    def is_prepared(self) -> bool:
        """Return whether the model is cut and placed in host memory. One without steps left never is."""
        return self._spec is not None

    @property
    def spec(self) -> ModelSpec:
        """Return how the model is cut, and where its shards are. The model must be prepared."""
        assert self._spec is not None
        return self._spec

    def layouts(self, cuts: Sequence[CutNames]) -> list[ShardLayout]:
        """Return where the tensors of each shard are in its bytes, given the start and stop of each."""
        return shard_layouts(self.training, cuts)

    def copy_to_files(self, shards: Iterable[ShardSpec]) -> None:
        """Copy the training's tensors into the shards' files. The training continues to use its own."""
        copy_to_files(self.training, shards)

    def place(self, spec: ModelSpec, costs: Iterable[Cost]) -> None:
        """Move the training's tensors into the shards' files.

        Args:
            spec: The model's cut, with a file for each shard.
            costs: The expected cost of each unit of a step [units].
        """
        self._spec = spec
        self.costs = list(costs)
        self._move_to_files()

    def _move_to_files(self) -> None:
        """Move the training's tensors into the shards' files, as version 0 of each shard."""
        move_to_files(self.training, self.spec.shards)
        self.versions = [0] * len(self.spec.shards)

    def reload(self) -> None:
        """Go back to the latest checkpoint. The steps since then are lost, and are computed again."""
        self.training = self._load_training()
        self._steps = self.training.steps()
        self._current = self._next_step()
        self._move_to_files()

    def files(self) -> list[Path]:
        """Return the model's files in host memory."""
        shards = [shard.file for shard in self.spec.shards]
        return shards + [crossing.file for crossing in self.spec.crossings]

    def close(self) -> None:
        """Free the training's tensors. The model must not be used afterwards."""
        del self.training, self._steps

    # ---- Units.

    def make_request(self, unit: Unit) -> UnitRequest:
        """Return the request to a worker for a unit of the current step."""
        training, current = self.training, self._current
        assert current is not None
        assert current.step.batch.step == unit.step
        if unit.position == 0:
            training.set_learning_rate(unit.step)
        num_correct, num_measured = training.meter.decoded.tolist()
        return UnitRequest(
            unit=unit,
            version=self.versions[unit.shard],
            learning_rate=training.optimizer.param_groups[0]["lr"],
            indices=current.step.batch.indices.numpy(),
            rng_state=training.forward_seed(unit.step) if unit.shard == 0 else current.rng_states[unit.shard],
            targets=current.targets if unit.is_forward and unit.is_backward else None,
            is_logged=current.step.is_logged,
            ends_epoch=current.step.ends_epoch,
            decode_counts=(num_correct, num_measured),
        )

    def record(self, result: UnitResult) -> bool:
        """Record the result of a unit, and after the step's last unit end the step.

        Returns:
            Whether `save` must be called before the next unit.

        Raises:
            TrainingError: If the loss is not finite.
        """
        current = self._current
        assert current is not None
        unit = result.unit
        self.versions[unit.shard] += 1
        self._memory.peak = max(self._memory.peak, result.peak_bytes)
        self._record_copies(result)
        if result.rng_state is not None:
            current.rng_states[unit.shard + 1] = result.rng_state
        if result.targets is not None:
            current.targets = result.targets
        if result.loss is not None:
            self._record_loss(current.step, result, result.loss)
        is_last_unit = unit.position + 1 == num_units(len(self.versions))
        return is_last_unit and self._end_step(current.step)

    def _record_copies(self, result: UnitResult) -> None:
        """Record how long copying the shard took. A shard that was on the device already changes no load time."""
        cost = self.costs[result.unit.position]
        load_begin, load_end = result.load_span
        store_begin, store_end = result.store_span
        load = load_end - load_begin if result.bytes_loaded else cost.load
        self.costs[result.unit.position] = replace(cost, load=load, store=store_end - store_begin)

    def _record_loss(self, step: Step, result: UnitResult, loss: float) -> None:
        """Record what the last shard measured of the step: the loss, the decode accuracy, and any warning."""
        training = self.training
        training.meter.add_loss(result.unit.step % training.order.steps_per_epoch, torch.tensor(loss))
        if result.decode_counts is not None:
            training.meter.decoded.copy_(torch.tensor(result.decode_counts))
        if step.ends_epoch:
            training.warning = result.warning

    def _end_step(self, step: Step) -> bool:
        """Log the step and begin the next one. Return whether a checkpoint is due, or no step is left."""
        self.training.progress.step += 1
        self.training.log_step(step)
        self._current = self._next_step()
        return self.training.is_checkpoint_due(step) or not self.has_steps_left

    # ---- Checkpoints and results.

    def save(self) -> None:
        """Write a checkpoint, or at the training's end or pause all that it leaves."""
        if self.has_steps_left:
            self.save_checkpoint()
            return
        # Finishing may run the module, to store its outputs, while another thread traces a network.
        with TORCH_PATCH_LOCK:
            self.training.finalize()

    def save_checkpoint(self) -> None:
        """Write a checkpoint to resume from."""
        self.training.save_checkpoint()

    def as_load(self, unit_seconds: Iterable[float]) -> Load:
        """Return what the steps computed here have cost, for the simulator.

        Args:
            unit_seconds: The measured seconds of each unit of a step [units].
        """
        units = tuple(
            replace(cost, seconds=float(seconds)) for cost, seconds in zip(self.costs, unit_seconds, strict=True)
        )
        return Load(units=units, steps=self.training.progress.step - self._first_step)


@contextmanager
def _num_threads(number: int | None) -> Iterator[None]:
    """Compute with `number` threads in this thread, for as long as the context is open.

    Initial values such as those of `nn.init.orthogonal_` depend on it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
