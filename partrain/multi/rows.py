"""The weights of several trainings side by side in one tensor, a row each, and the optimiser step over rows.

A training keeps its own modules, parameters and optimiser; what changes is where they lie. Its parameters, gradients and
optimiser state become views into its row, so that whoever looks at the training alone sees it as it always was, while
`Rows.stacked` shows one parameter of all trainings as a single tensor, for layers that compute them at once.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from partrain.segment import SegmentTraining

_ALIGNED = 16  # numbers; every parameter begins at a multiple of it, for whole vector registers


class Rows:
    """`values` and `gradients` [M, numbers in a row] of M `trainings` whose parameters have the same shapes.

    `computed` are the values in the precision of products, made anew by `refresh`; frozen parameters stay where they are.
    """

    def __init__(self, trainings: Sequence[SegmentTraining], precision: torch.dtype) -> None:
        first = trained(trainings[0].model)
        self._places: dict[int, tuple[int, Tensor]] = {}  # offset in the row, and the shape and strides there
        size = 0
        for parameter in first:
            self._places[id(parameter)] = size, parameter.detach()
            size += -(-parameter.numel() // _ALIGNED) * _ALIGNED
        self.values = torch.zeros(len(trainings), size, dtype=first[0].dtype, device=first[0].device)
        self.gradients = torch.zeros_like(self.values)
        self.computed = self.values if precision == first[0].dtype else torch.zeros_like(self.values, dtype=precision)
        # of steps: torch's optimisers have a count for every parameter
        self._counts = torch.zeros(len(trainings), len(first), device=first[0].device)
        places = list(self._places.values())
        self._rows = [
            _Row(training, values, gradients, counts, places)
            for training, values, gradients, counts in zip(
                trainings, self.values, self.gradients, self._counts, strict=True
            )
        ]

    def refresh(self) -> None:
        """Before a step: bring `computed` up to the values."""
        if self.computed is not self.values:
            self.computed.copy_(self.values)

    def stacked(self, parameter: nn.Parameter) -> "Stacked":
        """The first training's `parameter` in all of them."""
        offset, like = self._places[id(parameter)]
        return Stacked(*(_view(rows, offset, like) for rows in (self.values, self.computed, self.gradients)))

    def update(self) -> None:
        """One optimiser step of every training, each by its own settings; the gradients are left as they are."""
        self._counts.add_(1)
        alike: dict[tuple[Any, ...], list[_Row]] = defaultdict(list)
        for row in self._rows:
            alike[row.settings()].append(row)
        for settings, rows in alike.items():
            _step(settings, rows)


class Stacked:
    """One parameter of M trainings: `values`, `computed` and `gradients` [M, *shape], parts of the rows.

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


def _view(rows: Tensor, offset: int, like: Tensor) -> Tensor:
    """What lies at `offset` of a row, or of all `rows`, laid out as `like` is."""
    shape, stride = (*rows.shape[:-1], *like.shape), (*rows.stride()[:-1], *like.stride())
    return rows.as_strided(shape, stride, rows.storage_offset() + offset)


class _Row:
    """One training's numbers, as vectors: all that its optimiser reads and writes."""

    def __init__(
        self,
        training: SegmentTraining,
        values: Tensor,
        gradients: Tensor,
        counts: Tensor,
        places: list[tuple[int, Tensor]],
    ) -> None:
        self.optimizer, self.parameters = training.optimizer, trained(training.model)
        self.values, self.gradients = values, gradients
        self.group = self.optimizer.param_groups[0]
        self.is_sgd = isinstance(self.optimizer, torch.optim.SGD)
        held = self.optimizer.state[self.parameters[0]]
        if self.is_sgd:
            names: tuple[str, ...] = ("momentum_buffer",) if self.group["momentum"] else ()
        else:
            names = ("exp_avg", "exp_avg_sq")
        self.state = [torch.zeros_like(values) for _ in names]
        counts += held.get("step", 0)
        self.count = counts[0]
        for count, parameter, (offset, like) in zip(counts, self.parameters, places, strict=True):
            before = self.optimizer.state[parameter]
            views = {name: _view(row, offset, like) for name, row in zip(names, self.state, strict=True)}
            for name, view in views.items():
                if before.get(name) is not None:
                    view.copy_(before[name])
            own: dict[str, Tensor] = views if self.is_sgd else {"step": count, **views}
            self.optimizer.state[parameter] = own
            place = _view(values, offset, like)
            place.copy_(parameter.detach())
            parameter.data = place
            parameter.grad = _view(gradients, offset, like)

    def settings(self) -> tuple[Any, ...]:
        """What a step depends on besides tensors; rows with equal ones are updated in one call."""
        group = self.group
        kind = type(self.optimizer)
        if self.is_sgd:
            return kind, group["lr"], group["weight_decay"], group["momentum"]
        return kind, group["lr"], group["weight_decay"], group["eps"], *group["betas"]


def _step(settings: tuple[Any, ...], rows: Sequence[_Row]) -> None:
    """What `torch.optim` does in its fused step, for rows of equal `settings`: one pass over them, no temporaries."""
    kind, lr, weight_decay, *rest = settings
    values, gradients = [row.values for row in rows], [row.gradients for row in rows]
    if kind is torch.optim.SGD:
        buffers = [row.state[0] for row in rows if row.state]
        torch._fused_sgd_(
            values, gradients, buffers, lr=lr, weight_decay=weight_decay, momentum=rest[0],
            dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip
        return
    eps, beta1, beta2 = rest
    averages, squares = ([row.state[place] for row in rows] for place in (0, 1))
    steps = [row.count for row in rows]
    update = torch._fused_adamw_ if kind is torch.optim.AdamW else torch._fused_adam_
    update(
        values, gradients, averages, squares, [], steps, lr=lr, weight_decay=weight_decay, eps=eps,
        beta1=beta1, beta2=beta2, amsgrad=False, maximize=False,
    )  # fmt: skip
