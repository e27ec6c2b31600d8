"""The training loop, the same for every segment: one segment task, from its folder alone.

`train(folder)` reads task.json, resumes from the checkpoint it finds, and leaves checkpoint.safetensors, metrics.csv
and, while it runs, progress.json. Killed at any moment and called again it ends with the same weights: every batch,
sample and dropout mask comes from (seed, step).
"""

import time
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from partrain import checkpoint
from partrain.boundaries import SyntheticBoundary, make_input, make_output, make_projections
from partrain.control import Control
from partrain.data.batches import Batch, Order
from partrain.health import check_losses, collapse_warning
from partrain.memory import PeakMemory
from partrain.networks import Chain, network_settings
from partrain.networks.deferred import materialise
from partrain.optimization import autocast, learning_rate, make_optimizer, resolve_precision
from partrain.progress import EpochMeter, Heartbeat, Progress
from partrain.seeds import derive, seed_forward
from partrain.stored import store_outputs
from partrain.task import SegmentTask

CHECKPOINT = "checkpoint.safetensors"

_LOOK_EVERY = 16  # steps between looks at decode accuracy, losses, clock and control


def build_segment(task: SegmentTask, folder: Path, device: torch.device) -> fx.GraphModule:
    """The task's segment on `device`, with its initial weights; no other layer takes memory."""
    chain = Chain.build(network_settings(task.network), task.image_shape, task.num_classes)
    cuts = {cut.name: cut for cut in chain.cuts}
    start, stop = (None if name is None else cuts[name] for name in (task.start, task.stop))
    between = make_projections(task.projections, task.num_classes, task.labels, task.seed, device)
    segment = chain.segment(start, stop, between)
    if task.initial is not None:
        weights, _ = checkpoint.load(folder / task.initial, device)
        segment.load_state_dict({name: weights[name] for name in segment.state_dict()}, assign=True)
        segment.requires_grad_(True)
    materialise(segment, chain.tape, task.seed, device)
    if any(isinstance(module, nn.Conv2d) for module in segment.modules()):
        segment.to(memory_format=torch.channels_last)  # the faster layout everywhere
    return segment


class SegmentTraining:
    """One segment task under way."""

    def __init__(self, folder: Path, control: Control, memory: PeakMemory) -> None:
        self.folder, self.control, self.memory = folder, control, memory
        self.task = task = SegmentTask.read(folder)
        self.device = torch.device(task.device)
        self.precision = resolve_precision(task.train.precision, self.device)
        self.order = Order(task.num_images, task.train.batch_size, task.seed, self.device)
        self.planned = task.train.epochs * self.order.steps_per_epoch
        self.progress = Progress(end=self.planned)
        self.meter = EpochMeter(self.order.steps_per_epoch, self.device)
        self.warning = ""  # of the epoch's last output
        self.segment = build_segment(task, folder, self.device)
        self.input = make_input(task, folder, self.device)
        self.output = make_output(task, self.device)
        self.optimizer = make_optimizer(self.segment.parameters(), task.train, self.default_decay())
        self.restore()
        self.forward = torch.compile(self.segment) if task.train.compile else self.segment
        self.heartbeat = Heartbeat(folder)

    def default_decay(self) -> float:
        """The weight decay where the settings leave it open; see `TrainSettings`."""
        to_codes = isinstance(self.output, SyntheticBoundary) and self.output.similarity
        return 1.0 if to_codes and not isinstance(self.input, SyntheticBoundary) else 0.01

    def run(self) -> None:
        """Train to the end, unless `control` asks to stop; what is done by then is in the checkpoint."""
        self.segment.train()
        while self.progress.step < self.progress.end and not self.control.stop_asked():
            self.run_epoch()
        if self.control.stop_asked():
            return
        if self.progress.finished:
            self.store()
        else:
            self.finish()

    def run_epoch(self) -> None:
        """The rest of the epoch that training is in."""
        epoch, first = divmod(self.progress.step, self.order.steps_per_epoch)
        last_saved = time.monotonic()
        started, before = time.perf_counter(), self.progress.seconds
        for batch in self.order.batches(epoch, first):
            look = batch.step % _LOOK_EVERY == 0
            last = batch.step + 1 == (epoch + 1) * self.order.steps_per_epoch
            self.step(batch, look, last)
            self.progress.seconds = before + time.perf_counter() - started
            if last:
                self.end_epoch(epoch)
            elif look:
                self.look(epoch)
                if self.control.stop_asked():
                    break
                if time.monotonic() - last_saved > self.task.train.checkpoint_seconds:
                    self.save()
                    last_saved = time.monotonic()
        self.save()

    def step(self, batch: Batch, look: bool, last: bool) -> None:
        """One optimiser step on `batch`; with a `look` at what the output decodes to, and at the `last` whether it does."""
        rate = learning_rate(self.task.train, batch.step, self.progress.end, self.planned)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed_forward(derive(self.task.seed, "forward", self.task.index, batch.step), self.device)
        features, targets = self.input.sample(batch)
        with autocast(self.precision, self.device):
            output = self.forward(features)
        loss = self.output.loss(output, targets)
        if look:
            with torch.no_grad():
                self.meter.add_scores(self.output.scores(output.detach()), targets)
        if last:
            self.warning = self.collapse(output, batch.step + 1)
        del output  # or the backward pass could not free it
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.meter.add_loss(batch.step % self.order.steps_per_epoch, loss)
        self.progress.step = batch.step + 1

    def collapse(self, output: Tensor, step: int) -> str:
        """A warning where `output`, after `step` steps, carries no class; else nothing."""
        return collapse_warning(output, self.output, self.meter.accuracy(), self.task.num_classes, step) or ""

    def look(self, epoch: int) -> None:
        """Every few steps: stop at a loss that is no number, obey `control`, tell where we are."""
        number = self.progress.step - epoch * self.order.steps_per_epoch
        check_losses(self.meter.losses[:number], self.task.index, epoch)
        self.control.look()
        if self.heartbeat.due():
            self.tell(epoch, self.meter.losses[:number])

    def tell(self, epoch: int, losses: Tensor, warning: str = "", ended: bool = False) -> None:
        done = self.progress.step * self.task.train.batch_size
        self.heartbeat.beat(
            step=self.progress.step,
            end=self.progress.end,
            epoch=epoch + 1,
            loss=losses[-64:].mean().item(),
            decode_accuracy=self.meter.accuracy(),
            samples_per_second=done / max(self.progress.seconds, 1e-9),
            threads=torch.get_num_threads(),
            warning=warning,
            epoch_ended=ended,
        )

    def end_epoch(self, epoch: int) -> None:
        """Add the epoch's row to the metrics, and decide whether the loss has reached its floor."""
        steps = self.progress.step - epoch * self.order.steps_per_epoch
        losses = self.meter.losses[:steps]
        check_losses(losses, self.task.index, epoch)
        seconds = self.progress.seconds - sum(row["seconds"] for row in self.progress.epochs)
        self.progress.epochs.append(
            {
                "epoch": epoch + 1,
                "steps": steps,
                "loss": losses.mean().item(),
                "decode_accuracy": self.meter.accuracy(),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "seconds": seconds,
                "samples_per_second": steps * self.task.train.batch_size / seconds,
                "warning": self.warning,
            }
        )
        self.tell(epoch, losses, self.warning, ended=True)
        self.progress.write_metrics(self.folder)
        self.meter = EpochMeter(self.order.steps_per_epoch, self.device)
        self.stop_early()

    def stop_early(self) -> None:
        """Let the rate fall to zero over one more epoch, once an epoch of fresh samples brought next to nothing."""
        rows, settings = self.progress.epochs, self.task.train
        synthetic = isinstance(self.input, SyntheticBoundary)
        if not synthetic or settings.early_stop == 0 or self.progress.stopped_early or len(rows) < 2:
            return
        before, now = rows[-2]["loss"], rows[-1]["loss"]
        end = self.progress.step + self.order.steps_per_epoch
        if before - now < settings.early_stop * before and end < self.progress.end:
            self.progress.end = end
            self.progress.stopped_early = True

    def finish(self) -> None:
        """Settle the weights, store what the next segment is to be fed, and mark the task as done."""
        self.input.settle(self.segment)
        self.store()
        self.progress.peak_memory_bytes = self.memory.bytes(self.device)
        self.progress.finished = True
        self.save()

    def store(self) -> None:
        """Store the outputs that the next segment is to be fed; once more where the task is done but they are gone."""
        if self.task.stored_output is None:
            return
        target = self.folder / self.task.stored_output
        if self.progress.finished and target.exists():
            return
        with autocast(self.precision, self.device):
            store_outputs(target, self.segment, self.input.sample, self.task.num_images, self.device)
        self.progress.stored_bytes = target.stat().st_size

    def save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.segment.state_dict().items()}
        if not self.progress.finished:
            tensors.update(self.meter.tensors())
            for name, parameter in self.segment.named_parameters():
                for key, value in self.optimizer.state[parameter].items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer.{key}.{name}"] = value
        checkpoint.save(self.folder / CHECKPOINT, tensors, self.progress.to_json())

    def restore(self) -> None:
        try:
            tensors, values = checkpoint.load(self.folder / CHECKPOINT, self.device)
        except FileNotFoundError:
            return
        self.progress = Progress(**values)
        part = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self.segment.load_state_dict(part)
        if self.progress.finished:
            return
        self.meter.losses, self.meter.decoded = tensors["epoch.losses"], tensors["epoch.decoded"]
        parameters = dict(self.segment.named_parameters())
        for place, value in tensors.items():
            if place.startswith("optimizer."):
                _, key, name = place.split(".", 2)
                like = parameters[name]
                if value.shape == like.shape:  # in the weight's own memory layout, which fused optimisers rely on
                    value = torch.empty_like(like).copy_(value)
                self.optimizer.state[like][key] = value


def train(folder: Path, control: Control | None = None, memory: PeakMemory | None = None) -> bool:
    """Train the segment whose task is in `folder`, or go on where its checkpoint stands; True once it is done.

    Raises:
        ValueError: the task, its data or its checkpoint are damaged, or training fails (`TrainingError`).
    """
    training = SegmentTraining(folder, control or Control(folder), memory or PeakMemory())
    training.run()
    return training.progress.finished
