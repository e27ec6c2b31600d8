"""The training loop: epochs, steps, learning rate, and what is told and kept meanwhile; the same for every training.

What a step computes is the subclass's: `segment.py` for the main job, `strategies/` for the conventional ways.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from partrain.boundaries.boundary import Output
from partrain.data.batches import Batch, Order
from partrain.rng import derive, seed_forward
from partrain.storage import checkpoint
from partrain.storage.run_folder import epoch_weights
from partrain.training.context import Control
from partrain.training.diagnostics import check_losses, collapse_warning
from partrain.training.meters import PeakMemory, Usage
from partrain.training.optimization import learning_rate, resolve_precision
from partrain.training.progress import EpochMeter, Heartbeat, Progress
from partrain.training.state import num_bytes, optimizer_tensors
from partrain.training.task import SegmentTask
from partrain.training.tensorboard import EpochLog


@dataclass(frozen=True)
class Step:
    """A step to be done on `batch`; with a `look` it is to be seen what comes out, with its epoch's `last` all the more."""

    batch: Batch
    look: bool
    last: bool


class Loop(ABC):
    """One training under way, in `folder`; `model` and `optimizer` are what the subclass makes of the task.

    `pause_after`: the epoch after which it is to pause, its learning rate being that of the whole training.
    `fraction`: how much of this process the training is; less than 1 where others train beside it. `look_every`: steps
    between looks at decode accuracy, losses, clock and control.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    output: Output
    pause_after: int | None = None
    fraction: float = 1.0
    look_every: int = 16

    def __init__(self, folder: Path, task: SegmentTask, control: Control, memory: PeakMemory) -> None:
        self.folder, self.task, self.control, self.memory = folder, task, control, memory
        self.device = torch.device(task.device)
        self.precision = resolve_precision(task.train.precision, self.device)
        self.order = Order(task.num_images, task.train.batch_size, task.seed, self.device)
        self.planned = task.train.epochs * self.order.steps_per_epoch
        self.progress = Progress(end=self.planned)
        self.meter = EpochMeter(self.order.steps_per_epoch, self.device)
        self.warning = ""  # of the epoch's last output
        self.heartbeat = Heartbeat(folder)
        self.log = EpochLog(folder, task.train.tensorboard)

    @abstractmethod
    def forward_backward(self, batch: Batch, look: bool, last: bool) -> Tensor | None:
        """Leave the gradients for `batch` in place; returns its mean loss, None where this process never sees it.

        With a `look`, add to the meter what the output decodes to; at the epoch's `last`, see whether it has collapsed.
        """

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint that training can go on from, or, once finished, the trained weights."""

    @abstractmethod
    def finish(self) -> None:
        """What is left to do after the last step."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The part of the network's weights that this process answers for, as it would be stitched now."""

    def stop_early(self) -> None:  # noqa: B027 (most trainings do not)
        """At an epoch's end: bring the end forward where nothing more is to be gained."""

    def run(self) -> None:
        """Train to the end or to the pause, unless `control` asks to stop; what is done by then is in the checkpoint."""
        if self.control.stop_asked():
            return
        self.model.train()
        saved = time.monotonic()
        for step in self.steps():
            self.step(step)
            self.note(step)
            if not step.look:
                continue
            self.control.look()
            stopping = self.control.stop_asked()
            if step.last or stopping or time.monotonic() - saved > self.task.train.checkpoint_seconds:
                self.keep()
                saved = time.monotonic()
            if stopping:
                return
        self.conclude()

    def steps(self) -> Iterator[Step]:
        """The steps that are left; after each, the one who does them calls `note`."""
        in_epoch = self.order.steps_per_epoch
        self.usage = Usage(self.progress, self.device)
        while self.progress.step < self.reach():
            epoch, first = divmod(self.progress.step, in_epoch)
            self.usage.begin()
            for batch in self.order.batches(epoch, first):
                last = batch.step + 1 == (epoch + 1) * in_epoch
                yield Step(batch, last or batch.step % self.look_every == 0, last)

    def reach(self) -> int:
        """The step at which it ends or pauses."""
        if self.pause_after is None:
            return self.progress.end
        return min(self.progress.end, self.pause_after * self.order.steps_per_epoch)

    def step(self, step: Step) -> None:
        """One optimiser step."""
        batch = step.batch
        self.set_rate(batch.step)
        seed_forward(self.forward_seed(batch.step), self.device)
        loss = self.forward_backward(batch, step.look, step.last)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if loss is not None:
            self.meter.add_loss(batch.step % self.order.steps_per_epoch, loss)
        self.progress.step = batch.step + 1

    def add_losses(self, losses: Tensor) -> None:
        """Note the `losses` [n] of the last n steps, all of this epoch."""
        number = (self.progress.step - 1) % self.order.steps_per_epoch + 1
        self.meter.add_losses(number - len(losses), losses)

    def set_rate(self, step: int) -> None:
        rate = learning_rate(self.task.train, step, self.progress.end, self.planned)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def forward_seed(self, step: int) -> int:
        """What dropout and the like are seeded with before `step`."""
        return derive(self.task.seed, "forward", self.task.index, step)

    def note(self, step: Step) -> None:
        """After a step: what it used, and with a look where the training is."""
        if not step.look:
            return
        self.usage.note(whole=step.last, fraction=self.fraction)
        epoch = step.batch.step // self.order.steps_per_epoch
        if step.last:
            self.end_epoch(epoch, self.usage.started)
        else:
            self.look(epoch)

    def keep(self) -> None:
        """Write metrics and checkpoint, which takes no time of the steps'."""
        self.progress.write_metrics(self.folder)
        self.save()
        self.usage.skip()

    def conclude(self) -> None:
        """After the last step: finish, or, at a pause, keep the weights of that epoch (`EPOCHS_FOLDER`) too."""
        if self.progress.step >= self.progress.end:
            self.finish()
        elif self.pause_after is not None:
            self.keep_weights(self.pause_after)

    def observe(self, output: Tensor, targets: Tensor, look: bool, last: bool) -> None:
        """What a step's `look` and `last` ask to be seen of its output."""
        if look:
            with torch.no_grad():
                self.meter.add_scores(self.output.scores(output.detach()), targets)
        if last:
            accuracy, step = self.meter.accuracy() or 0.0, self.progress.step + 1
            self.warning = collapse_warning(output, self.output, accuracy, self.task.num_classes, step) or ""

    def look(self, epoch: int) -> None:
        """Every few steps: stop at a loss that is no number, tell where we are."""
        number = self.progress.step - epoch * self.order.steps_per_epoch
        check_losses(self.meter.losses[:number], self.task.index, epoch)
        if self.heartbeat.due():
            self.tell(epoch)

    def tell(self, epoch: int, warning: str = "", ended: bool = False) -> None:
        """Show in progress.json where the training is."""
        number = self.progress.step - epoch * self.order.steps_per_epoch
        done = self.progress.step * self.task.train.batch_size
        self.heartbeat.beat(
            step=self.progress.step,
            end=self.progress.end,
            epoch=epoch + 1,
            loss=self.meter.loss(max(0, number - 64), number),
            decode_accuracy=self.meter.accuracy(),
            samples_per_second=done / max(self.progress.seconds, 1e-9),
            threads=torch.get_num_threads(),
            warning=warning,
            epoch_ended=ended,
        )

    def end_epoch(self, epoch: int, started: float) -> None:
        """Add the epoch's row to the metrics, and decide whether the training is to end early.

        `started`: the time of day at which this process took up the epoch, in seconds since 1970.
        """
        steps = self.progress.step - epoch * self.order.steps_per_epoch
        check_losses(self.meter.losses[:steps], self.task.index, epoch)
        seconds = self.progress.seconds - sum(row["seconds"] for row in self.progress.epochs)
        row = {
            "epoch": epoch + 1,
            "steps": steps,
            "loss": self.meter.loss(0, steps),
            "decode_accuracy": self.meter.accuracy(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            "samples_per_second": steps * self.task.train.batch_size / seconds,
            "warning": self.warning,
        }
        self.progress.epochs.append(row)
        self.progress.timeline.append([started, time.time()])
        self.tell(epoch, self.warning, ended=True)
        self.log.write(row)
        self.meter = EpochMeter(self.order.steps_per_epoch, self.device)
        if self.task.train.accuracy_curve:
            self.keep_weights(epoch + 1)
        self.stop_early()

    def keep_weights(self, epoch: int) -> None:
        """Keep the weights after `epoch`, so that the whole network's accuracy at that time can be told later.

        Their time is the first step's, in seconds since 1970, and the seconds of steps since: pauses do not count.
        """
        weights = self.weights()
        self.usage.skip_traffic()  # of gathering them
        if weights:
            moment = {"time": self.progress.timeline[0][0] + self.progress.seconds}
            checkpoint.save(epoch_weights(self.folder, epoch), weights, moment)

    def describe_end(self) -> None:
        """Put what the trained process is known to have taken into the progress."""
        self.progress.peak_memory_bytes = self.memory.bytes(self.device)
        self.progress.parameter_bytes = num_bytes(self.model.parameters())
        self.progress.optimizer_state_bytes = num_bytes(optimizer_tensors(self.optimizer))
        self.progress.finished = True
