"""The training loop: epochs, steps, learning rate, logging and checkpoints, the same for every kind of training.

A subclass says what one step computes: `SegmentTraining` for the main job, `strategies/` for the conventional ways.
"""

import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from partrain.boundaries.boundary import OutputBoundary
from partrain.data.batches import Batch, BatchOrder
from partrain.device import processor_name
from partrain.rng import derive_seed, seed_forward
from partrain.storage import checkpoint
from partrain.storage.run_folder import epoch_weights
from partrain.training.context import TrainingContext
from partrain.training.diagnostics import check_losses, collapse_warning
from partrain.training.meters import PeakMemory, Usage
from partrain.training.optimization import learning_rate, resolve_precision
from partrain.training.progress import EpochMeter, Heartbeat, Progress
from partrain.training.state import num_bytes, optimizer_tensors
from partrain.training.task import SegmentTask
from partrain.training.tensorboard import EpochLog

_METRICS_SECONDS = 1.0  # At most once in this time metrics.csv is written for people who watch.
_WRITTEN_BYTES_PER_SECOND = 1e8  # As a slow disk does.


@dataclass(frozen=True)
class Step:
    """A step of a training: its batch, and whether its output is measured as well as trained on."""

    batch: Batch
    is_logged: bool
    """Whether decode accuracy and losses are read at this step. It is true at every epoch's last step."""
    ends_epoch: bool
    """Whether this is the last step of its epoch."""


class Loop(ABC):
    """A training loop over the task in `folder`.

    The subclass builds `model`, `optimizer` and `output` from the task, and computes a step in `forward_backward`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    output: OutputBoundary
    pause_after: int | None = None
    """The epoch after which training pauses. The learning rate still follows the whole training's schedule."""
    process_share: float = 1.0
    """The part of this process's CPU time that counts as this training's; less than 1 beside other trainings."""
    log_every: int = 16
    """Steps between readings of decode accuracy, losses, the clock and the requests of the launcher."""

    def __init__(
        self,
        folder: Path,
        task: SegmentTask,
        context: TrainingContext,
        memory: PeakMemory,
        device: torch.device | None = None,
    ) -> None:
        self.folder, self.task, self.context, self.memory = folder, task, context, memory
        self.device = device or context.device
        self.precision = resolve_precision(task.train.precision, self.device)
        self.order = BatchOrder(task.num_images, task.train.batch_size, task.seed, self.device)
        self.planned_steps = task.train.epochs * self.order.steps_per_epoch
        self.progress = Progress(end=self.planned_steps)
        self.meter = EpochMeter(self.order.steps_per_epoch, self.device)
        self.usage = Usage(self.device)
        self.warning = ""
        """The warning about the last output of the epoch, or an empty text."""
        self.heartbeat = Heartbeat()
        self.log = EpochLog(folder, to_tensorboard=task.train.tensorboard)
        self._counted_steps = 0  # Up to this step, the progress has what the steps used.
        self._saved_at = time.monotonic()
        self._saving_seconds = 0.0  # How long the last checkpoint took.
        self._metrics_written_at = -math.inf
        self.record_place()

    # ---- The story of a training.

    def run(self) -> bool:
        """Train to the end or the pause, or until the context asks to stop; a checkpoint holds what is done by then.

        Returns:
            Whether training has come to its end or its pause.

        Raises:
            TrainingError: If training cannot continue, as a loss is not finite.
        """
        if self.context.should_stop():
            return False
        self.model.train()
        for step in self.steps():
            self.train_step(step)
            self.log_step(step)
            if step.is_logged:
                self.context.poll()
            if self.should_stop_after(step):
                if self.has_time_to_save():
                    self.save_checkpoint()
                return False
            if self.is_checkpoint_due(step):
                self.save_checkpoint()
        self.finalize()
        return True

    def steps(self) -> Iterator[Step]:
        """Yield the remaining steps. Whoever trains one calls `log_step` with it before asking for the next."""
        steps_per_epoch = self.order.steps_per_epoch
        self.usage.skip_traffic()
        self._counted_steps = self.progress.step
        self._saved_at = time.monotonic()
        while self.progress.step < self.last_step:
            epoch, first = divmod(self.progress.step, steps_per_epoch)
            self.usage.begin_epoch()
            for batch in self.order.batches(epoch, first):
                ends_epoch = batch.step + 1 == (epoch + 1) * steps_per_epoch
                is_logged = ends_epoch or batch.step % self.log_every == 0
                yield Step(batch, is_logged=is_logged, ends_epoch=ends_epoch)

    @property
    def last_step(self) -> int:
        """Return after how many steps training ends or pauses, counted from the start of the training."""
        if self.pause_after is None:
            return self.progress.end
        return min(self.progress.end, self.pause_after * self.order.steps_per_epoch)

    def train_step(self, step: Step) -> None:
        """Do one optimiser step."""
        batch = step.batch
        self.set_learning_rate(batch.step)
        seed_forward(self.forward_seed(batch.step), self.device)
        loss = self.forward_backward(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if loss is not None:
            self.meter.add_loss(batch.step % self.order.steps_per_epoch, loss)
        self.progress.step = batch.step + 1

    def log_step(self, step: Step) -> None:
        """Record what a logged step used, check the losses up to it, and report progress."""
        if not step.is_logged:
            return
        self.usage.add_to(self.progress, ends_epoch=step.ends_epoch, share=self.process_share)
        self._counted_steps = self.progress.step
        epoch = step.batch.step // self.order.steps_per_epoch
        check_losses(self.meter.losses[: self.steps_done_in(epoch)], self.task.index, epoch)
        if step.ends_epoch:
            self.end_epoch(epoch)
        elif self.heartbeat.is_due():
            self.report(epoch)

    def should_stop_after(self, step: Step) -> bool:
        """Return whether to end after `step`, with a checkpoint if there is time for it."""
        return self.context.should_stop()

    def is_checkpoint_due(self, step: Step) -> bool:
        """Return whether to write a checkpoint after `step`: it is logged, and `train.checkpoint_seconds` have passed."""
        return step.is_logged and time.monotonic() - self._saved_at > self.task.train.checkpoint_seconds

    def has_time_to_save(self) -> bool:
        """Return whether a checkpoint takes less time than the context leaves before the training must end."""
        limit = self.context.stop_seconds
        return limit is None or self.estimate_saving_seconds() < limit

    def estimate_saving_seconds(self) -> float:
        """Return how long a checkpoint takes: as long as the last one, or else as its bytes take on a slow disk."""
        num_saved = 3 * num_bytes(self.model.parameters())  # Weights and two moments of the optimiser.
        return self._saving_seconds or num_saved / _WRITTEN_BYTES_PER_SECOND

    def save_checkpoint(self) -> None:
        """Write metrics.csv and a checkpoint. The time this takes does not count as training."""
        began_at = time.monotonic()
        self.add_usage()
        self.progress.write_metrics(self.folder)
        self.write_checkpoint()
        self.usage.skip_time()
        self._saved_at = time.monotonic()
        self._saving_seconds = self._saved_at - began_at

    def add_usage(self) -> None:
        """Add to the progress what steps since the last logged one have used, since a checkpoint may follow any step."""
        if self.progress.step > self._counted_steps:
            self.usage.add_to(self.progress, ends_epoch=False, share=self.process_share)
            self._counted_steps = self.progress.step

    def finalize(self) -> None:
        """Finish the training after its last step, or write a checkpoint and the epoch's weights at a pause."""
        if self.progress.step >= self.progress.end:
            if not self.progress.finished:
                self.progress.write_metrics(self.folder)
            self.finish()
        elif self.pause_after is not None:
            self.save_checkpoint()
            self.save_epoch_weights(self.pause_after)

    # ---- What the subclass says.

    @abstractmethod
    def forward_backward(self, step: Step) -> Tensor | None:
        """Compute the gradients for a step's batch and call `update_metrics` with the output.

        Returns:
            The mean loss, a scalar, or None in a process that never sees the loss.
        """

    @abstractmethod
    def write_checkpoint(self) -> None:
        """Write a checkpoint to resume from, or, once training has finished, the trained weights."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the training after its last step, and write the trained weights."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return this process's part of the network's weights as they would be stitched now, by name."""

    def check_early_stop(self) -> None:  # noqa: B027 (most trainings do not stop early)
        """Bring the end of the training forward, after an epoch, where no more is to be gained."""

    # ---- The parts of a step.

    def set_learning_rate(self, step: int) -> None:
        """Set the learning rate of the optimiser to the schedule's at `step`."""
        rate = learning_rate(self.task.train, step, self.progress.end, self.planned_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def forward_seed(self, step: int) -> int:
        """Return the seed from which dropout and other random layers draw at `step`."""
        return derive_seed(self.task.seed, "forward", self.task.index, step)

    def update_metrics(self, output: Tensor, targets: Tensor, step: Step) -> None:
        """Count how many outputs decode to their target at a logged step, and look for a collapse at an epoch's end."""
        if step.is_logged:
            with torch.no_grad():
                self.meter.add_scores(self.output.scores(output.detach()), targets)
        if step.ends_epoch:
            accuracy, steps = self.meter.accuracy() or 0.0, self.progress.step + 1
            self.warning = collapse_warning(output, self.output, accuracy, self.task.num_classes, steps) or ""

    def add_losses(self, losses: Tensor) -> None:
        """Record the losses [n] of the last n steps, all of the present epoch."""
        steps_done = (self.progress.step - 1) % self.order.steps_per_epoch + 1
        self.meter.add_losses(steps_done - len(losses), losses)

    # ---- Logging.

    def steps_done_in(self, epoch: int) -> int:
        """Return how many steps of `epoch`, the present one, are done."""
        return self.progress.step - epoch * self.order.steps_per_epoch

    def report(self, epoch: int, *, warning: str = "", epoch_ended: bool = False) -> None:
        """Report how far the training is."""
        steps_done = self.steps_done_in(epoch)
        samples = self.progress.step * self.task.train.batch_size
        self.heartbeat.beat()
        values = {
            "step": self.progress.step,
            "end": self.progress.end,
            "epoch": epoch + 1,
            "loss": self.meter.loss(max(0, steps_done - 64), steps_done),
            "decode_accuracy": self.meter.accuracy(),
            "samples_per_second": samples / max(self.progress.seconds, 1e-9),
            "threads": torch.get_num_threads(),
            "warning": warning,
            "epoch_ended": epoch_ended,
        }
        self.context.report(self.folder, values)

    def end_epoch(self, epoch: int) -> None:
        """Add the row of `epoch` to the metrics, and decide whether training ends early."""
        row = self.epoch_row(epoch)
        self.progress.epochs.append(row)
        self.progress.timeline.append([self.usage.epoch_began, time.time()])
        self.report(epoch, warning=self.warning, epoch_ended=True)
        self.log.write(row)
        self.show_metrics()
        self.meter = EpochMeter(self.order.steps_per_epoch, self.device)
        # At a pause the checkpoint is written first, since the weights say that the training has come so far.
        is_pause = epoch + 1 == self.pause_after and self.progress.step < self.progress.end
        if self.task.train.accuracy_curve and not is_pause:
            self.save_epoch_weights(epoch + 1)
        self.check_early_stop()

    def show_metrics(self) -> None:
        """Write metrics.csv for people who watch, at most once a second."""
        if time.monotonic() - self._metrics_written_at < _METRICS_SECONDS:
            return
        with suppress(OSError):  # A checkpoint writes them again, and on a full disk it says so.
            self.progress.write_metrics(self.folder, sync=False)
        self._metrics_written_at = time.monotonic()

    def epoch_row(self, epoch: int) -> dict[str, object]:
        """Return the row of metrics.csv for `epoch`, which has just ended."""
        steps = self.steps_done_in(epoch)
        seconds = self.progress.seconds - sum(row["seconds"] for row in self.progress.epochs)
        return {
            "epoch": epoch + 1,
            "steps": steps,
            "loss": self.meter.loss(0, steps),
            "decode_accuracy": self.meter.accuracy(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            "samples_per_second": steps * self.task.train.batch_size / seconds,
            "warning": self.warning,
        }

    # ---- What training leaves.

    def save_epoch_weights(self, epoch: int) -> None:
        """Write the weights after `epoch` to a file of its own, for the accuracy of the whole network at that time.

        The file's `time` is the first step's, in seconds since 1970, plus the seconds of training since: pauses do not
        count.
        """
        weights = self.weights()
        self.usage.skip_traffic()  # Gathering them is not training.
        if weights:
            moment = {"time": self.progress.timeline[0][0] + self.progress.seconds}
            checkpoint.save(epoch_weights(self.folder, epoch), weights, moment)

    def record_place(self) -> None:
        """Record in the progress where the training runs."""
        self.progress.host = platform.node()
        self.progress.device = str(self.context.device)
        self.progress.processor = processor_name(self.context.device)

    def record_resources(self) -> None:
        """Record in the progress what the finished training took of memory, and mark it as finished."""
        self.progress.peak_memory_bytes = self.memory.bytes(self.device)
        self.progress.parameter_bytes = num_bytes(self.model.parameters())
        self.progress.optimizer_state_bytes = num_bytes(optimizer_tensors(self.optimizer))
        self.progress.finished = True
