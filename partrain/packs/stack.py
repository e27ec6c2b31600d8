"""A stack: trainings of one shape whose steps are one batched computation, on weights side by side in memory."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from partrain.packs.fused_optimizer import FusedOptimizer
from partrain.packs.graph import stack_networks, structure
from partrain.packs.layers import OneByOne, StackedDropout
from partrain.packs.member_rngs import MemberRngs
from partrain.packs.stacked_boundaries import make_stacked_output, sample_batches
from partrain.packs.stacked_parameters import StackedParameters, trainable_parameters, unstack
from partrain.training.loop import Step
from partrain.training.optimization import autocast, weight_dtype
from partrain.training.segment import SegmentTraining


def stacking_shape(training: SegmentTraining) -> Hashable:
    """Return a key that trainings must share to be stacked: their network's structure, batch size, precision and device.

    A compiled training shares it with no other. Neither does one in which modules share weights.
    """
    task = training.task
    network = structure(training.model)
    is_unique = task.train.compile or network is None
    unique = training.folder if is_unique else None
    layouts = tuple(parameter.stride() for parameter in trainable_parameters(training.model))
    return network, layouts, task.train.batch_size, training.precision, training.device, unique


def make_stack(trainings: Sequence[SegmentTraining]) -> "Stack | UnstackedTraining":
    """Return a stack of `trainings`, which share their `stacking_shape`, or the training alone if it is one."""
    for training in trainings:
        training.model.train()
    if len(trainings) == 1:
        return UnstackedTraining(trainings[0])
    return Stack(trainings)


class UnstackedTraining:
    """A training alone, in the place of a stack. Its own loop computes its steps.

    Args:
        training: The training, which gets tensors of its own in place of those of an earlier stack.
    """

    def __init__(self, training: SegmentTraining) -> None:
        self.training = training
        unstack(training)
        self._rollback = StepRollback([training])

    def train_step(self, steps: Sequence[Step]) -> None:
        """Do the training's step, the only one in `steps`. If it fails, its buffers and metrics are as before."""
        with self._rollback.undo_if_failed(steps):
            self.training.train_step(steps[0])

    def flush_losses(self) -> None:
        """Do nothing, since the training keeps its own losses."""


class Stack:
    """Two or more trainings of one shape that step together.

    Each stays an ordinary training, whose tensors are views of the stack's. Nothing of one reaches another: matrix
    products, normalisations and losses are batched over M. Every training has its own random numbers and its own
    optimiser settings.

    Args:
        trainings: The M trainings, with models in training mode.
    """

    def __init__(self, trainings: Sequence[SegmentTraining]) -> None:
        self.trainings = list(trainings)
        self.device, self.precision = trainings[0].device, trainings[0].precision
        compute_dtype = torch.bfloat16 if self.precision == "bf16" else weight_dtype(self.precision)
        self.parameters = StackedParameters(trainings, compute_dtype)
        self.rngs = MemberRngs(len(trainings), self.device)
        self.model = stack_networks([training.model for training in trainings], self.parameters, self.rngs)
        self.optimizer = FusedOptimizer(self.parameters, trainings)
        self.output = make_stacked_output(trainings)
        self._rollback = StepRollback(trainings)
        self.draws_random_numbers = any(isinstance(m, OneByOne | StackedDropout) for m in self.model.modules())
        self._losses: list[Tensor] = []  # [M, n] of every step that the trainings have not received.

    def train_step(self, steps: Sequence[Step]) -> None:
        """Do one optimiser step of every training.

        Args:
            steps: The step of each training, in the order of the trainings.

        Raises:
            Exception: If the forward or the backward pass fails: a layer raises an error, or memory is full. The weights,
                buffers, metrics and optimiser states of all trainings then are as before the step.
        """
        features, targets = sample_batches(self.trainings, [step.batch for step in steps])
        self.set_learning_rates(steps)
        self.seed_random_numbers(steps)
        self.parameters.zero_gradients()

        with self._rollback.undo_if_failed(steps):
            losses = self.forward_backward(features, targets, steps)
        self.optimizer.step()

        self._losses.append(losses.detach())
        for training, step in zip(self.trainings, steps, strict=True):
            training.progress.step = step.batch.step + 1
        if any(step.is_logged for step in steps):
            self.flush_losses()

    def flush_losses(self) -> None:
        """Let every training receive the losses of its steps since this was last called."""
        if not self._losses:
            return
        losses = torch.stack(self._losses).mean(dim=2)  # [steps, M]
        self._losses.clear()
        for number, training in enumerate(self.trainings):
            training.add_losses(losses[:, number])

    # ---- The parts of a step.

    def set_learning_rates(self, steps: Sequence[Step]) -> None:
        """Set the learning rate of each training's optimiser to its schedule's."""
        for training, step in zip(self.trainings, steps, strict=True):
            training.set_learning_rate(step.batch.step)

    def seed_random_numbers(self, steps: Sequence[Step]) -> None:
        """Seed each training's generator as the training alone would, if any layer draws random numbers."""
        if not self.draws_random_numbers:
            return
        pairs = zip(self.trainings, steps, strict=True)
        self.rngs.seed([training.forward_seed(step.batch.step) for training, step in pairs])

    def forward_backward(self, features: Tensor, targets: Tensor, steps: Sequence[Step]) -> Tensor:
        """Compute the gradients of all trainings, and update the metrics of those whose step is logged.

        Returns:
            The losses [M, n], of which the means over n are the trainings' losses.
        """
        with autocast(self.precision, self.device):
            outputs = self.model(features.to(weight_dtype(self.precision)))
        losses = self.output.losses(outputs, targets)
        self.update_metrics(outputs, targets, steps)
        del outputs  # The backward pass could not free them otherwise.
        losses.backward(torch.full_like(losses, 1 / losses.shape[1]))
        return losses

    def update_metrics(self, outputs: Tensor, targets: Tensor, steps: Sequence[Step]) -> None:
        """Update the metrics of each training whose step is logged."""
        for number, (training, step) in enumerate(zip(self.trainings, steps, strict=True)):
            if step.is_logged:
                training.update_metrics(outputs[number], targets[number], step)


class StepRollback:
    """A way back for trainings whose step fails: to their buffers and their counts of decoded outputs before the step.

    Random generators need none, since they are seeded at the beginning of every step.

    Args:
        trainings: The trainings, whose models have the buffers that they compute with.
    """

    def __init__(self, trainings: Sequence[SegmentTraining]) -> None:
        self._trainings = trainings
        # A user's layer may assign a new tensor to its buffer, so each is found by its place.
        modules = [module for training in trainings for module in training.model.modules()]
        self._places = [(module._buffers, name) for module in modules for name in module._buffers]

    @contextmanager
    def undo_if_failed(self, steps: Sequence[Step]) -> Iterator[None]:
        """Restore the trainings if an exception leaves the context, in which they do `steps`."""
        places = [(owner, name, owner[name]) for owner, name in self._places]
        pairs = zip(self._trainings, steps, strict=True)
        counts = [training.meter.decoded for training, step in pairs if step.is_logged]
        tensors = [tensor for *_, tensor in places if tensor is not None] + counts
        values = [tensor.clone() for tensor in tensors]
        try:
            yield
        except BaseException:
            for owner, name, tensor in places:
                owner[name] = tensor
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
            raise
