"""The weights of several trainings side by side in the same tensors, and the optimiser step over all of them.

A training keeps its own modules, parameters and optimiser; what changes is where they lie. Its parameters, gradients and
optimiser state become views into its rows, so that whoever looks at the training alone sees it as it always was, while
`Rows.stacked` shows one parameter of all trainings as a single tensor, for layers that compute them at once.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from partrain.segment import SegmentTraining

_ALIGNED = 16  # numbers; every parameter begins at a multiple of it, for whole vector registers
_LARGE = 16_384  # numbers of a parameter that gets a block of its own


class Block:
    """Rows [M, numbers] of the same parameters of M trainings: their `values`, `gradients`, and, in the precision of
    products, `computed`.

    A large parameter has a block of its own, where products find and leave it without a copy; small ones share one, for
    an optimiser's step has a cost per tensor too.
    """

    def __init__(self, count: int, size: int, like: Tensor, precision: torch.dtype) -> None:
        self.values = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.values)
        self.computed = self.values if precision == like.dtype else torch.zeros_like(self.values, dtype=precision)


class Rows:
    """The rows of M `trainings` whose parameters have the same shapes; frozen ones stay where they are."""

    def __init__(self, trainings: Sequence[SegmentTraining], precision: torch.dtype) -> None:
        first, count = trained(trainings[0].model), len(trainings)
        small = [parameter for parameter in first if parameter.numel() < _LARGE]
        shared = Block(count, sum(map(_room, small)), first[0], precision)
        self.blocks = [shared] if small else []
        self._places: dict[int, tuple[Block, int]] = {}  # of a parameter: its block, and where its row begins there
        offset = 0
        for parameter in first:
            if parameter.numel() < _LARGE:
                self._places[id(parameter)] = shared, offset
                offset += _room(parameter)
            else:
                self.blocks.append(Block(count, parameter.numel(), parameter, precision))
                self._places[id(parameter)] = self.blocks[-1], 0
        # of steps: torch's optimisers have a count for every parameter
        self._counts = torch.zeros(count, max(len(first), len(self.blocks)), device=first[0].device)
        self._likes = {id(parameter): parameter.detach() for parameter in first}
        places = list(self._places.values())
        self._rows = [_Row(training, number, self.blocks, self._counts[number]) for number, training in enumerate(trainings)]
        for row, training in zip(self._rows, trainings, strict=True):
            row.take(training, places)
        alike: dict[Any, list[_Row]] = defaultdict(list)  # rows whose optimisers differ in their rates at most
        for row in self._rows:
            alike[row.settings].append(row)
        self._alike = [(rows, _together(rows)) for rows in alike.values()]

    def stacked(self, parameter: nn.Parameter) -> "Stacked":
        """The first training's `parameter` in all of them."""
        (block, offset), like = self._places[id(parameter)], self._likes[id(parameter)]
        return Stacked(*(_view(rows, offset, like) for rows in (block.values, block.computed, block.gradients)))

    def refresh(self) -> None:
        """Before a step: bring what products compute with up to the values."""
        for block in self.blocks:
            if block.computed is not block.values:
                block.computed.copy_(block.values)

    def clear(self) -> None:
        """Zero all gradients."""
        for block in self.blocks:
            block.gradients.zero_()

    def update(self) -> None:
        """One optimiser step of every training, each at its own rate; the gradients are left as they are."""
        self._counts.add_(1)
        for rows, together in self._alike:
            rates = {row.group["lr"] for row in rows}
            if len(rates) == 1:
                together(lr=rates.pop())
            else:
                for row in rows:
                    row.step(lr=row.group["lr"])


class Stacked:
    """One parameter of M trainings: `values`, `computed` and `gradients` [M, *shape], parts of a block.

    `anchor` makes autograd ask for gradients; it is no weight and gets none.
    """

    def __init__(self, values: Tensor, computed: Tensor, gradients: Tensor) -> None:
        self.values, self.computed, self.gradients = values, computed, gradients
        self.anchor = torch.zeros((), device=values.device, requires_grad=True)

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


def _view(rows: Tensor, offset: int, like: Tensor) -> Tensor:
    """What lies at `offset` of a row, or of all `rows`, laid out as `like` is."""
    shape, stride = (*rows.shape[:-1], *like.shape), (*rows.stride()[:-1], *like.stride())
    return rows.as_strided(shape, stride, rows.storage_offset() + offset)


class _Row:
    """One training's numbers, a vector per block: all that its optimiser reads and writes.

    `settings`: what its step depends on besides tensors and the learning rate.
    """

    def __init__(self, training: SegmentTraining, number: int, blocks: Sequence[Block], counts: Tensor) -> None:
        self.blocks = blocks
        self.optimizer, self.group = training.optimizer, training.optimizer.param_groups[0]
        self.values = [block.values[number] for block in blocks]
        self.gradients = [block.gradients[number] for block in blocks]
        self.counts = counts
        self.is_sgd = isinstance(self.optimizer, torch.optim.SGD)
        names = ("exp_avg", "exp_avg_sq")
        if self.is_sgd:
            names = ("momentum_buffer",) if self.group["momentum"] else ()  # type: ignore[assignment]
        self.state = {name: [torch.zeros_like(values) for values in self.values] for name in names}
        keys = ("weight_decay", "momentum") if self.is_sgd else ("weight_decay", "betas", "eps")
        self.settings = type(self.optimizer), *(self.group[key] for key in keys)
        self.step = _together([self])

    def take(self, training: SegmentTraining, places: Sequence[tuple[Block, int]]) -> None:
        """Move the training's parameters and their optimiser state here."""
        for parameter, (block, offset), count in zip(trained(training.model), places, self.counts, strict=False):
            place, before = self.blocks.index(block), self.optimizer.state[parameter]
            like = parameter.detach()
            state = {name: _view(rows[place], offset, like) for name, rows in self.state.items()}
            for name, view in state.items():
                if before.get(name) is not None:
                    view.copy_(before[name])
            if not self.is_sgd:
                count.copy_(torch.as_tensor(before.get("step", 0)))
                state["step"] = count
            self.optimizer.state[parameter] = state
            values = _view(self.values[place], offset, like)
            values.copy_(like)
            parameter.data, parameter.grad = values, _view(self.gradients[place], offset, like)


def _together(rows: Sequence[_Row]) -> Callable[..., object]:
    """What `torch.optim` does in its fused step, for rows of equal settings: one pass over them, no temporaries.

    It is to be called with the learning rate.
    """
    kind, group = type(rows[0].optimizer), rows[0].group
    lists: list[list[Tensor]] = [
        [tensor for row in rows for tensor in row.values],
        [tensor for row in rows for tensor in row.gradients],
        *([tensor for row in rows for tensor in row.state[name]] for name in rows[0].state),
    ]
    if kind is torch.optim.SGD:
        lists += [[]] * (3 - len(lists))
        own = {"momentum": group["momentum"], "dampening": 0.0, "nesterov": False, "is_first_step": False}
        return partial(torch._fused_sgd_, *lists, weight_decay=group["weight_decay"], maximize=False, **own)
    counts = [row.counts[0] for row in rows for _ in row.values]
    function = torch._fused_adamw_ if kind is torch.optim.AdamW else torch._fused_adam_
    beta1, beta2 = group["betas"]
    own = {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "amsgrad": False}
    return partial(function, *lists, [], counts, weight_decay=group["weight_decay"], maximize=False, **own)
