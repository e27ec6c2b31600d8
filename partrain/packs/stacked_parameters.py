"""The weights of several trainings of one shape, side by side in the same tensors.

A training keeps its own modules, parameters and optimiser. Its parameters become views of one row of the shared tensors,
so that the training alone looks as before. `StackedParameters.stacked` shows the same parameter of all trainings as one
tensor, for layers that compute them at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partrain.training.segment import SegmentTraining

_ALIGNMENT = (
    16  # Numbers. Every parameter begins at a multiple of it, so that vector instructions read whole registers.
)
_MIN_OWN_BLOCK = 16_384  # Numbers. A parameter of this size or more gets a block of its own.


class Block:
    """The values and gradients of some parameters of M trainings, a row for each training.

    A large parameter has a block of its own, where matrix products read it without a copy. Small parameters share one,
    since every tensor adds to the cost of an optimiser's step.

    Args:
        count: The number M of trainings.
        size: The length of a row, in numbers.
        like: A tensor with the dtype and device of the parameters.
        compute_dtype: The precision of matrix products.

    Attributes:
        values: The parameters [M, size].
        compute_values: The parameters in the precision of products. It is `values` itself if that is the same.
        gradients: The gradients [M, size].
    """

    def __init__(self, count: int, size: int, like: Tensor, compute_dtype: torch.dtype) -> None:
        self.values = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        is_same = compute_dtype == like.dtype
        self.compute_values = self.values if is_same else torch.zeros_like(self.values, dtype=compute_dtype)
        self.gradients = torch.zeros_like(self.values)

    def update_compute_values(self) -> None:
        """Copy the values to those in the precision of products, after the values have changed."""
        if self.compute_values is not self.values:
            self.compute_values.copy_(self.values)


@dataclass(frozen=True, eq=False)
class Slot:
    """The place of one parameter: its block, and the number in a row at which it begins."""

    block: Block
    begin: int


class StackedParameters:
    """The trainable parameters of M trainings, which have the same shapes. Frozen ones stay where they are.

    Args:
        trainings: The trainings, whose parameters become views of this object's blocks.
        compute_dtype: The precision of matrix products.

    Attributes:
        blocks: The blocks that hold all parameters.
        slots: The slot of every parameter, in the order of a model's parameters.
    """

    def __init__(self, trainings: Sequence[SegmentTraining], compute_dtype: torch.dtype) -> None:
        parameters = trainable_parameters(trainings[0].model)
        self.blocks: list[Block] = []
        self.slots: list[Slot] = []
        self._accumulates = False  # Whether any gradient is added to the one before, instead of replacing it.
        self._numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
        self._make_slots(parameters, len(trainings), compute_dtype)
        self._move_in(trainings)

    def _make_slots(self, parameters: Sequence[nn.Parameter], count: int, compute_dtype: torch.dtype) -> None:
        """Make the blocks of `count` trainings, and give every parameter its slot."""
        small_size = sum(_aligned_size(parameter) for parameter in parameters if not _has_own_block(parameter))
        if small_size:
            self.blocks.append(Block(count, small_size, parameters[0], compute_dtype))
        begin = 0
        for parameter in parameters:
            if _has_own_block(parameter):
                self.blocks.append(Block(count, parameter.numel(), parameter, compute_dtype))
                self.slots.append(Slot(self.blocks[-1], 0))
            else:
                self.slots.append(Slot(self.blocks[0], begin))
                begin += _aligned_size(parameter)

    def _move_in(self, trainings: Sequence[SegmentTraining]) -> None:
        """Copy the parameters of each training to its row, and make them views of it."""
        for row, training in enumerate(trainings):
            for parameter, slot in zip(trainable_parameters(training.model), self.slots, strict=True):
                view = view_of(slot.block.values[row], slot.begin, parameter.detach())
                parameter.data = view.copy_(parameter.detach())
        for block in self.blocks:
            block.update_compute_values()

    def stacked(self, parameter: nn.Parameter) -> "StackedParameter":
        """Return the counterparts of the first training's `parameter` in all trainings."""
        slot = self.slots[self._numbers[id(parameter)]]
        return StackedParameter(slot.block, slot.begin, parameter.detach())

    def differentiable(self, parameter: nn.Parameter) -> Callable[[], Tensor]:
        """Return a function that returns the first training's `parameter` in all trainings as a tensor for autograd.

        The tensor's gradients [M, *shape] are added to those that the optimiser reads.
        """
        self._accumulates = True
        return self.stacked(parameter).differentiable

    def link_gradients(self, modules: Sequence[nn.Module]) -> None:
        """Let autograd add the gradients of `modules`, one of each training, to those that the optimiser reads."""
        self._accumulates = True
        for counterparts in zip(*(trainable_parameters(module) for module in modules), strict=True):
            slot = self.slots[self._numbers[id(counterparts[0])]]
            for row, parameter in enumerate(counterparts):
                parameter.grad = view_of(slot.block.gradients[row], slot.begin, parameter.detach())

    def zero_gradients(self) -> None:
        """Set all gradients to zero before a backward pass, if some of them accumulate."""
        if not self._accumulates:
            return
        for block in self.blocks:
            block.gradients.zero_()


class StackedParameter:
    """One parameter of M trainings, as views of its block.

    Attributes:
        values: The parameters [M, *shape].
        compute_values: The parameters [M, *shape] in the precision of products.
        gradients: The gradients [M, *shape], which the optimiser reads.
        anchor: A scalar that makes autograd call the backward pass. It is no weight and gets no gradient.
    """

    def __init__(self, block: Block, begin: int, like: Tensor) -> None:
        self.values = view_of(block.values, begin, like)
        self.compute_values = view_of(block.compute_values, begin, like)
        self.gradients = view_of(block.gradients, begin, like)
        self.anchor = torch.zeros((), device=like.device, requires_grad=True)

    def differentiable(self) -> Tensor:
        """Return the values as a tensor for autograd, whose gradients are added to `gradients`."""
        return _WithGradients.apply(self.anchor, self.values, self.gradients)


class _WithGradients(torch.autograd.Function):
    """The identity of a parameter's values, whose gradient is added to a given tensor."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
        """Return a view of the values [M, *shape]."""
        ctx.gradients = gradients
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Add the gradient of the values to the tensor of gradients."""
        ctx.gradients.add_(gradients[0])
        return None, None, None


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `model` that an optimiser changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def unstack(training: SegmentTraining) -> None:
    """Give a training tensors of its own, in place of views of a stack that it may have been part of."""
    for parameter in trainable_parameters(training.model):
        parameter.data = parameter.detach().clone()
        parameter.grad = None  # A stack keeps its gradients from step to step; a training alone does not.
        state = training.optimizer.state[parameter]
        training.optimizer.state[parameter] = {name: value.clone() for name, value in state.items()}


def _has_own_block(parameter: Tensor) -> bool:
    """Return whether a parameter is large enough for a block of its own."""
    return parameter.numel() >= _MIN_OWN_BLOCK


def _aligned_size(parameter: Tensor) -> int:
    """Return how many numbers of a row a small parameter takes, up to where the next may begin."""
    return -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT


def view_of(rows: Tensor, begin: int, like: Tensor) -> Tensor:
    """Return a view of the numbers from `begin` on in a row, or in each of several rows, in the layout of `like`.

    Args:
        rows: A row [size], or rows [M, size].
        begin: The number at which the view begins.
        like: A tensor with the shape and strides of the view of one row.
    """
    shape, stride = (*rows.shape[:-1], *like.shape), (*rows.stride()[:-1], *like.stride())
    return rows.as_strided(shape, stride, rows.storage_offset() + begin)
