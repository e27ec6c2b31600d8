"""The weights of several trainings side by side in the same tensors.

A training keeps its own modules, parameters and optimiser; what changes is where they lie. Its parameters become views
into its rows, so that whoever looks at the training alone sees it as it always was, while `StackedParameters.stacked`
shows one parameter of all trainings as a single tensor, for layers that compute them at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from partrain.training.segment import SegmentTraining

_ALIGNED = 16  # numbers; every parameter begins at a multiple of it, for whole vector registers
_LARGE = 16_384  # numbers of a parameter that gets a block of its own


class Block:
    """Rows [M, numbers] of the same parameters of M trainings: `values`, `gradients`, and, in the precision of products,
    `computed`.

    A large parameter has a block of its own, where products find it without a copy; small ones share one, for an
    optimiser's step has a cost per tensor too.
    """

    def __init__(self, count: int, size: int, like: Tensor, precision: torch.dtype) -> None:
        self.values = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        self.computed = self.values if precision == like.dtype else torch.zeros_like(self.values, dtype=precision)
        self.gradients = torch.zeros_like(self.values)

    def refresh(self) -> None:
        """Bring what products compute with up to the values."""
        if self.computed is not self.values:
            self.computed.copy_(self.values)


class StackedParameters:
    """The rows of M `trainings` whose parameters have the same shapes; frozen ones stay where they are.

    `places`: of every parameter, in the order of a model's, its block and where it begins there.
    """

    def __init__(self, trainings: Sequence[SegmentTraining], precision: torch.dtype) -> None:
        first, count = trained(trainings[0].model), len(trainings)
        small = sum(_room(parameter) for parameter in first if parameter.numel() < _LARGE)
        self.blocks = [Block(count, small, first[0], precision)] if small else []
        self.places: list[tuple[Block, int]] = []
        offset = 0
        for parameter in first:
            if parameter.numel() < _LARGE:
                self.places.append((self.blocks[0], offset))
                offset += _room(parameter)
            else:
                self.blocks.append(Block(count, parameter.numel(), parameter, precision))
                self.places.append((self.blocks[-1], 0))
        self._adds_up = False  # whether any gradient is added to what is there
        self._numbers = {id(parameter): number for number, parameter in enumerate(first)}
        for row, training in enumerate(trainings):
            for parameter, (block, begin) in zip(trained(training.model), self.places, strict=True):
                values = view_of(block.values[row], begin, parameter.detach())
                parameter.data = values.copy_(parameter.detach())
        for block in self.blocks:
            block.refresh()

    def stacked(self, parameter: nn.Parameter) -> "Stacked":
        """The first training's `parameter` in all of them."""
        block, begin = self.places[self._numbers[id(parameter)]]
        return Stacked(block, begin, parameter.detach())

    def tensor(self, parameter: nn.Parameter) -> Callable[[], Tensor]:
        """Gives the first training's `parameter` in all of them, for any computation of autograd's."""
        self._adds_up = True
        return self.stacked(parameter).tensor

    def link_gradients(self, modules: Sequence[nn.Module]) -> None:
        """Let autograd add up the gradients of `modules`, one of each training, where the optimiser reads them."""
        self._adds_up = True
        for together in zip(*(trained(module) for module in modules), strict=True):
            block, begin = self.places[self._numbers[id(together[0])]]
            for row, parameter in enumerate(together):
                parameter.grad = view_of(block.gradients[row], begin, parameter.detach())

    def clear(self) -> None:
        """Before a backward pass: zero the gradients, where some are added up."""
        for block in self.blocks if self._adds_up else ():
            block.gradients.zero_()


class Stacked:
    """One parameter of M trainings: `values`, `computed` and `gradients` [M, *shape], parts of its block.

    `anchor` makes autograd ask for gradients; it is no weight and gets none.
    """

    def __init__(self, block: Block, begin: int, like: Tensor) -> None:
        self.values, self.computed, self.gradients = (
            view_of(rows, begin, like) for rows in (block.values, block.computed, block.gradients)
        )
        self.anchor = torch.zeros((), device=like.device, requires_grad=True)

    def tensor(self) -> Tensor:
        """The values, for any computation of autograd's; their gradients are added to `gradients`."""
        return _Tensor.apply(self.anchor, self.values, self.gradients)


class _Tensor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
        ctx.gradients = gradients
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.gradients.add_(gradients[0])
        return None, None, None


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def leave_rows(training: SegmentTraining) -> None:
    """Give `training` tensors of its own, and let go of rows that it may have been part of."""
    for parameter in trained(training.model):
        parameter.data = parameter.detach().clone()
        parameter.grad = None  # in rows they are kept from step to step
        state = training.optimizer.state[parameter]
        training.optimizer.state[parameter] = {name: value.clone() for name, value in state.items()}


def _room(parameter: Tensor) -> int:
    return -(-parameter.numel() // _ALIGNED) * _ALIGNED


def view_of(rows: Tensor, begin: int, like: Tensor) -> Tensor:
    """What lies from number `begin` on in a row, or in all `rows`, laid out as `like` is."""
    shape, stride = (*rows.shape[:-1], *like.shape), (*rows.stride()[:-1], *like.stride())
    return rows.as_strided(shape, stride, rows.storage_offset() + begin)
