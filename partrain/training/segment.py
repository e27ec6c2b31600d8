"""The training of one segment from its folder alone: the engine of the main job.

A `SegmentTraining` reads task.json, resumes from the checkpoint if there is one, and leaves checkpoint.safetensors and
metrics.csv. Killed at any moment and made and run again, it ends with the same weights: every batch, sample and dropout
mask comes from (seed, step).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from partrain.boundaries.activations import store_outputs
from partrain.boundaries.boundary import SyntheticBoundary, make_projections
from partrain.networks import NETWORKS, Chain
from partrain.networks.deferred import materialise
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, PREVIOUS_CHECKPOINT
from partrain.training.context import TrainingContext
from partrain.training.endpoints import make_input, make_output
from partrain.training.job import Job
from partrain.training.loop import Loop, Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import DEFAULT_DECAY, autocast, make_optimizer, weight_dtype
from partrain.training.progress import Progress
from partrain.training.state import assign_weights, load_optimizer, load_weights, optimizer_state, weights_state
from partrain.training.task import SegmentTask


class SegmentTraining(Loop):
    """The training of one segment, which carries its input boundary to its output boundary.

    Args:
        folder: The training's folder, with its task.
        context: The launcher's requests.
        memory: The meter of peak memory.
        device: The device to train on instead of the context's.

    Raises:
        UserError: If the task, its data or its checkpoint are damaged.
    """

    model: fx.GraphModule

    def __init__(
        self,
        folder: Path,
        context: TrainingContext,
        memory: PeakMemory,
        *,
        device: torch.device | None = None,
    ) -> None:
        task = SegmentTask.read(folder)
        super().__init__(folder, task, context, memory, device)
        self.model = build_segment(task, folder, self.device)
        self.input = make_input(task, folder, self.device)
        self.output = make_output(task, self.device)
        self.optimizer = make_optimizer(self.model.parameters(), task.train, self.default_decay())
        self.restore()
        self.forward = torch.compile(self.model) if task.train.compile else self.model

    def default_decay(self) -> float:
        """Return the weight decay where the settings leave it open (`TrainSettings.weight_decay`)."""
        ends_at_codes = isinstance(self.output, SyntheticBoundary) and self.output.uses_similarity
        has_real_inputs = not isinstance(self.input, SyntheticBoundary)
        return 1.0 if ends_at_codes and has_real_inputs else DEFAULT_DECAY

    def forward_backward(self, step: Step) -> Tensor:
        """Compute the gradients for a step's batch and return its loss."""
        features, targets = self.input.sample(step.batch)
        with autocast(self.precision, self.device):
            output = self.forward(features.to(weight_dtype(self.precision)))
        loss = self.output.loss(output, targets)
        self.update_metrics(output, targets, step)
        del output  # The backward pass can then free it.
        loss.backward()
        return loss

    def check_early_stop(self) -> None:
        """End training after one more epoch once an epoch of synthetic samples has hardly lowered the loss.

        The learning rate falls to zero over that last epoch. Fresh samples cannot be overfitted, so only their loss
        counts.
        """
        rows, settings = self.progress.epochs, self.task.train
        has_synthetic_inputs = isinstance(self.input, SyntheticBoundary)
        if not has_synthetic_inputs or settings.early_stop == 0 or self.progress.stopped_early or len(rows) < 2:
            return
        previous, latest = rows[-2]["loss"], rows[-1]["loss"]
        end = self.progress.step + self.order.steps_per_epoch
        if previous - latest < settings.early_stop * previous and end < self.progress.end:
            self.progress.end = end
            self.progress.stopped_early = True

    def weights(self) -> dict[str, Tensor]:
        """Return the segment's weights, projected onto the codes; training continues with them as they are."""
        unprojected = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.input.project_onto_codes(self.model)
        projected = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(unprojected)
        return projected

    def finish(self) -> None:
        """Project the weights onto the codes, store the outputs for the next segment, and mark the task as finished."""
        if self.progress.finished:
            self.store_outputs()
            return
        self.input.project_onto_codes(self.model)
        self.store_outputs()
        self.record_resources()
        self.write_checkpoint()

    def store_outputs(self) -> None:
        """Store the outputs that the next segment is fed, unless none are wanted or a finished task has them."""
        if self.task.stored_output is None:
            return
        target = self.folder / self.task.stored_output
        if self.progress.finished and target.exists():
            return
        with autocast(self.precision, self.device):
            self.progress.stored_bytes = store_outputs(
                target, self.model, self.input.sample, self.task.num_images, self.device
            )

    # ---- Checkpoints.

    def write_checkpoint(self) -> None:
        """Write a checkpoint of the tensors in `state`, with the progress as its metadata. It is part of no round."""
        (self.folder / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)
        self.progress.round = None
        checkpoint.save(self.folder / CHECKPOINT, self.state(), self.progress.to_json())

    def write_round(self, number: int) -> None:
        """Write metrics.csv and a checkpoint that is part of a pack's round, and keep the checkpoint before it.

        A pack that is killed before its round is complete takes the training back to the one before.
        """
        self.progress.write_metrics(self.folder, sync=False)
        path = self.folder / CHECKPOINT
        if path.exists():
            path.replace(self.folder / PREVIOUS_CHECKPOINT)
        self.progress.round = number
        checkpoint.save(path, self.state(), self.progress.to_json())

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that training resumes from; once it has finished, the weights alone."""
        tensors = weights_state(self.model)
        if not self.progress.finished:
            tensors |= self.meter.tensors() | optimizer_state(self.model, self.optimizer)
        return tensors

    def restore(self) -> None:
        """Resume from the checkpoint in the folder, if there is one."""
        path, previous = self.folder / CHECKPOINT, self.folder / PREVIOUS_CHECKPOINT
        if previous.exists() and not path.exists():
            previous.replace(path)  # A pack was killed within `write_round`.
        try:
            self.load_state(*checkpoint.load(path, self.device))
        except FileNotFoundError:
            return

    def load_state(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Resume from the tensors that `state` returned and from the progress beside them."""
        self.progress = Progress(**progress)
        self.record_place()
        load_weights(tensors, self.model)
        if not self.progress.finished:
            self.meter.restore(tensors)
            load_optimizer(tensors, self.model, self.optimizer)


def make_work(job: Job, context: TrainingContext, memory: PeakMemory) -> SegmentTraining:
    """Return the only training of `job`, begun anew or resumed from its checkpoint."""
    [member] = job.members
    training = SegmentTraining(member.folder, context, memory)
    training.pause_after = member.pause_after
    return training


def build_segment(task: SegmentTask, folder: Path, device: torch.device) -> fx.GraphModule:
    """Return the task's segment on `device`, with its initial weights; no other layer takes memory."""
    chain = Chain.build(NETWORKS.from_dict(task.network), task.image_shape, task.num_classes)
    projections = make_projections(task.projections, task.num_classes, task.labels, task.seed, device)
    segment = chain.extract_segment(chain.cut_named(task.start), chain.cut_named(task.stop), projections)
    if task.initial is not None:
        weights, _ = checkpoint.load(folder / task.initial, device)
        assign_weights({name: weights[name] for name in segment.state_dict()}, segment)
        segment.requires_grad_()
    materialise(segment, chain.tape, task.seed, device)
    segment.to(weight_dtype(task.train.precision))
    if any(isinstance(module, nn.Conv2d) for module in segment.modules()):
        segment.to(memory_format=torch.channels_last)  # Convolutions are faster in this layout on CPUs and GPUs.
    return segment
