"""The main job's training: one segment, from its folder alone.

`train(folder)` reads task.json, resumes from the checkpoint it finds, and leaves checkpoint.safetensors, metrics.csv
and, while it runs, progress.json. Killed at any moment and called again it ends with the same weights: every batch,
sample and dropout mask comes from (seed, step).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from partrain.boundaries.activations import store_outputs
from partrain.boundaries.boundary import SyntheticBoundary, make_projections
from partrain.networks import Chain, network_settings_from_dict
from partrain.networks.deferred import materialise
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import TrainingContext
from partrain.training.endpoints import make_input, make_output
from partrain.training.loop import Loop, Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import DEFAULT_DECAY, autocast, make_optimizer, weight_type
from partrain.training.progress import Progress
from partrain.training.state import assign_weights, load_optimizer, load_weights, optimizer_state, weights_state
from partrain.training.task import SegmentTask


def build_segment(task: SegmentTask, folder: Path, device: torch.device) -> fx.GraphModule:
    """The task's segment on `device`, with its initial weights; no other layer takes memory."""
    chain = Chain.build(network_settings_from_dict(task.network), task.image_shape, task.num_classes)
    cuts = {cut.name: cut for cut in chain.cuts}
    start, stop = (None if name is None else cuts[name] for name in (task.start, task.stop))
    between = make_projections(task.projections, task.num_classes, task.labels, task.seed, device)
    segment = chain.extract_segment(start, stop, between)
    if task.initial is not None:
        weights, _ = checkpoint.load(folder / task.initial, device)
        assign_weights({name: weights[name] for name in segment.state_dict()}, segment)
        segment.requires_grad_(True)
    materialise(segment, chain.tape, task.seed, device)
    segment.to(weight_type(task.train.precision))
    if any(isinstance(module, nn.Conv2d) for module in segment.modules()):
        segment.to(memory_format=torch.channels_last)  # the faster layout everywhere
    return segment


class SegmentTraining(Loop):
    """One segment task under way."""

    model: fx.GraphModule

    def __init__(
        self, folder: Path, context: TrainingContext, memory: PeakMemory, resume: bool = True, device: str | None = None
    ) -> None:
        """`device`: instead of the task's own."""
        task = SegmentTask.read(folder)
        task = task if device is None else replace(task, device=device)
        super().__init__(folder, task, context, memory)
        self.model = build_segment(task, folder, self.device)
        self.input = make_input(task, folder, self.device)
        self.output = make_output(task, self.device)
        self.optimizer = make_optimizer(self.model.parameters(), task.train, self.default_decay())
        if resume:
            self.restore()
        self.forward = torch.compile(self.model) if task.train.compile else self.model

    def default_decay(self) -> float:
        """The weight decay where the settings leave it open; see `TrainSettings`."""
        to_codes = isinstance(self.output, SyntheticBoundary) and self.output.similarity
        return 1.0 if to_codes and not isinstance(self.input, SyntheticBoundary) else DEFAULT_DECAY

    def forward_backward(self, step: Step) -> Tensor:
        features, targets = self.input.sample(step.batch)
        with autocast(self.precision, self.device):
            output = self.forward(features.to(weight_type(self.precision)))
        loss = self.output.loss(output, targets)
        self.update_metrics(output, targets, step)
        del output  # or the backward pass could not free it
        loss.backward()
        return loss

    def check_early_stop(self) -> None:
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

    def weights(self) -> dict[str, Tensor]:
        """The segment's weights, settled; training goes on with them as they are."""
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.input.project_onto_codes(self.model)
        settled = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(before)
        return settled

    def finish(self) -> None:
        """Settle the weights, store what the next segment is to be fed, and mark the task as done."""
        if self.progress.finished:
            self.store()
            return
        self.input.project_onto_codes(self.model)
        self.store()
        self.record_resources()
        self.write_checkpoint()

    def store(self) -> None:
        """Store the outputs that the next segment is to be fed; once more where the task is done but they are gone."""
        if self.task.stored_output is None:
            return
        target = self.folder / self.task.stored_output
        if self.progress.finished and target.exists():
            return
        with autocast(self.precision, self.device):
            store_outputs(target, self.model, self.input.sample, self.task.num_images, self.device)
        self.progress.stored_bytes = target.stat().st_size

    def write_checkpoint(self) -> None:
        checkpoint.save(self.folder / CHECKPOINT, self.state(), self.progress.to_json())

    def state(self) -> dict[str, Tensor]:
        """All tensors that training goes on from; once it is finished, the weights alone."""
        tensors = weights_state(self.model)
        if not self.progress.finished:
            tensors |= self.meter.tensors() | optimizer_state(self.model, self.optimizer)
        return tensors

    def restore(self) -> None:
        try:
            self.load_state(*checkpoint.load(self.folder / CHECKPOINT, self.device))
        except FileNotFoundError:
            return

    def load_state(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Put what `state` and the progress were back."""
        self.progress = Progress(**progress)
        load_weights(tensors, self.model)
        if not self.progress.finished:
            self.meter.restore(tensors)
            load_optimizer(tensors, self.model, self.optimizer)


def train(folder: Path, context: TrainingContext | None = None, memory: PeakMemory | None = None) -> bool:
    """Train the segment whose task is in `folder`, or go on where its checkpoint stands; True once it is done.

    Raises:
        ValueError: the task, its data or its checkpoint are damaged, or training fails (`TrainingError`).
    """
    training = SegmentTraining(folder, context or TrainingContext(folder), memory or PeakMemory())
    training.run()
    return training.progress.finished
