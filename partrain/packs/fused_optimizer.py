"""The optimiser steps of trainings whose weights lie in rows: torch's own fused ones, over whole rows.

A training's optimiser keeps its settings and its state, which become views into rows as the weights are; only its `step`
is done here, for a row at once instead of parameter by parameter, and for all rows at once where settings are equal.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from partrain.packs.stacked_parameters import StackedParameters, trained, view_of
from partrain.training.optimization import moment_names
from partrain.training.segment import SegmentTraining


class FusedOptimizer:
    """The optimisers of `trainings`, whose weights are in `rows`."""

    def __init__(self, rows: StackedParameters, trainings: Sequence[SegmentTraining]) -> None:
        self._blocks = rows.blocks
        # of steps: torch's optimisers have a count for every parameter
        self._counts = torch.zeros(len(trainings), len(rows.places), device=rows.blocks[0].values.device)
        made = [
            _Row(training, rows, n, counts)
            for n, (training, counts) in enumerate(zip(trainings, self._counts, strict=True))
        ]
        alike: dict[Any, list[_Row]] = defaultdict(list)  # rows whose optimisers differ in their rates at most
        for row in made:
            alike[row.settings].append(row)
        self._alike = [(same, _together(same)) for same in alike.values()]

    def step(self) -> None:
        """One step of every training, each at its own rate."""
        self._counts.add_(1)
        for rows, together in self._alike:
            rates = {row.group["lr"] for row in rows}
            if len(rates) == 1:
                together(lr=rates.pop())
            else:
                for row in rows:
                    row.step(lr=row.group["lr"])
        for block in self._blocks:
            block.refresh()


class _Row:
    """All that one training's optimiser reads and writes, a vector per block.

    `settings`: what its step depends on besides tensors and the learning rate.
    """

    def __init__(self, training: SegmentTraining, rows: StackedParameters, number: int, counts: Tensor) -> None:
        self.optimizer, self.group = training.optimizer, training.optimizer.param_groups[0]
        self.values = [block.values[number] for block in rows.blocks]
        self.gradients = [block.gradients[number] for block in rows.blocks]
        self.counts = counts
        is_sgd = isinstance(self.optimizer, torch.optim.SGD)
        names = moment_names(training.task.train)
        self.state = {name: [torch.zeros_like(values) for values in self.values] for name in names}
        keys = ("weight_decay", "momentum") if is_sgd else ("weight_decay", "betas", "eps")
        self.settings = type(self.optimizer), *(self.group[key] for key in keys)
        for parameter, (block, begin), count in zip(trained(training.model), rows.places, counts, strict=True):
            before, place = self.optimizer.state[parameter], rows.blocks.index(block)
            state = {n: view_of(vectors[place], begin, parameter.detach()) for n, vectors in self.state.items()}
            for name, view in state.items():
                if before.get(name) is not None:
                    view.copy_(before[name])
            if not is_sgd:
                state["step"] = count.copy_(torch.as_tensor(before.get("step", 0)))
            self.optimizer.state[parameter] = state
        self.step = _together([self])


def _together(rows: Sequence[_Row]) -> Callable[..., object]:
    """What `torch.optim` does in its fused step, for rows of equal settings: one pass over them, no temporaries.

    It is to be called with the learning rate.
    """
    kind, group = type(rows[0].optimizer), rows[0].group
    lists: list[list[Tensor]] = [
        [vector for row in rows for vector in row.values],
        [vector for row in rows for vector in row.gradients],
        *([vector for row in rows for vector in row.state[name]] for name in rows[0].state),
    ]
    own: dict[str, Any]
    if kind is torch.optim.SGD:
        lists += [[]] * (3 - len(lists))
        own = {"momentum": group["momentum"], "dampening": 0.0, "nesterov": False, "is_first_step": False}
        return partial(torch._fused_sgd_, *lists, weight_decay=group["weight_decay"], maximize=False, **own)
    counts = [row.counts[0] for row in rows for _ in row.values]
    function = torch._fused_adamw_ if kind is torch.optim.AdamW else torch._fused_adam_
    beta1, beta2 = group["betas"]
    own = {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "amsgrad": False}
    return partial(function, *lists, [], counts, weight_decay=group["weight_decay"], maximize=False, **own)
