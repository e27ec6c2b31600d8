"""Trainings of one shape that step together, as one batched computation on weights that lie side by side."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from partrain.packs.fused_optimizer import FusedOptimizer
from partrain.packs.graph import stacked, structure
from partrain.packs.layers import Each, StackedDropout
from partrain.packs.member_rngs import MemberRngs
from partrain.packs.stacked_boundaries import sample, stacked_output
from partrain.packs.stacked_parameters import StackedParameters, leave_rows, trained
from partrain.training.loop import Step
from partrain.training.optimization import autocast, weight_dtype
from partrain.training.segment import SegmentTraining


def shape_of(training: SegmentTraining) -> Hashable:
    """What trainings must have in common to be stacked; batches of unequal size would have to be padded, so that too.

    A compiled training is stacked with no other, nor is one in which modules share weights.
    """
    task = training.task
    found = structure(training.model)
    own = training.folder if task.train.compile or found is None else None
    layouts = tuple(parameter.stride() for parameter in trained(training.model))
    return found, layouts, task.train.batch_size, training.precision, training.device, own


class Stack:
    """M `trainings` of equal shape; each stays an ordinary training, whose tensors are views into the stack's.

    Nothing of one reaches another: products, normalisations and losses are batched over M, and every training has its own
    random numbers and its own optimiser settings. One alone is trained by its own loop.
    """

    def __init__(self, trainings: Sequence[SegmentTraining]) -> None:
        self.trainings = list(trainings)
        first = trainings[0]
        self.device, self.precision = first.device, first.precision
        for training in trainings:
            training.model.train()
        self.alone = len(self.trainings) == 1
        if self.alone:
            leave_rows(first)
            return
        self.rows = StackedParameters(
            trainings, torch.bfloat16 if self.precision == "bf16" else weight_dtype(self.precision)
        )
        self.streams = MemberRngs(len(trainings), self.device)
        self.model = stacked([training.model for training in trainings], self.rows, self.streams)
        self.steps = FusedOptimizer(self.rows, trainings)
        self.output = stacked_output(trainings)
        self.buffers = [buffer for training in trainings for buffer in training.model.buffers()]
        self.draws = any(isinstance(layer, Each | StackedDropout) for layer in self.model.modules())
        self._losses: list[Tensor] = []  # [M, n] of each step since they were last handed on

    def step(self, steps: Sequence[Step]) -> None:
        """One optimiser step of every training, on its own batch.

        Raises:
            torch.OutOfMemoryError: all is as it was before the step.
        """
        if self.alone:
            self.trainings[0].train_step(steps[0])
            return
        features, targets = sample(self.trainings, [step.batch for step in steps])
        for training, step in zip(self.trainings, steps, strict=True):
            training.set_learning_rate(step.batch.step)
        if self.draws:
            self.streams.seed([t.forward_seed(step.batch.step) for t, step in zip(self.trainings, steps, strict=True)])
        self.rows.clear()
        before = [buffer.clone() for buffer in self.buffers]
        try:
            with autocast(self.precision, self.device):
                outputs = self.model(features.to(weight_dtype(self.precision)))
            losses = self.output.losses(outputs, targets)
            self.update_metrics(outputs, targets, steps)
            del outputs  # or the backward pass could not free it
            losses.backward(torch.full_like(losses, 1 / losses.shape[1]))
        except torch.OutOfMemoryError:
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
            raise
        self.steps.step()
        self._losses.append(losses.detach())
        for training, step in zip(self.trainings, steps, strict=True):
            training.progress.step = step.batch.step + 1
        if any(step.is_logged for step in steps):
            self.hand_on_losses()

    def update_metrics(self, outputs: Tensor, targets: Tensor, steps: Sequence[Step]) -> None:
        for number, (training, step) in enumerate(zip(self.trainings, steps, strict=True)):
            if step.is_logged:
                training.update_metrics(outputs[number], targets[number], step)

    def hand_on_losses(self) -> None:
        """Put the losses of the steps since the last time where each training keeps its own."""
        if self.alone or not self._losses:
            return
        recent = torch.stack(self._losses).mean(dim=2)  # [steps, M]
        self._losses.clear()
        for number, training in enumerate(self.trainings):
            training.add_losses(recent[:, number])
