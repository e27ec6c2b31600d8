"""The optimisers of stacked trainings, as PyTorch's fused kernels over whole rows of stacked parameters.

A training's own optimiser keeps its settings and its state. The state's tensors become views of rows, as the weights are.
Only the step is computed here: for a row at once instead of parameter by parameter, and for all trainings at once where
their settings are equal.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from partrain.packs.stacked_parameters import Slot, StackedParameters, trainable_parameters, view_of
from partrain.training.optimization import moment_names
from partrain.training.segment import SegmentTraining


class FusedOptimizer:
    """An optimiser that does the steps of several trainings.

    Args:
        parameters: The stacked parameters of the trainings.
        trainings: The trainings, whose optimisers' states become views of rows.
    """

    def __init__(self, parameters: StackedParameters, trainings: Sequence[SegmentTraining]) -> None:
        self._blocks = parameters.blocks
        # PyTorch's optimisers count the steps of every parameter: [M, parameters].
        device = parameters.blocks[0].values.device
        self._step_counts = torch.zeros(len(trainings), len(parameters.slots), device=device)
        self._groups: list[tuple[list[_MemberOptimizer], Callable[..., object]]] = []

        members_by_settings: dict[Hashable, list[_MemberOptimizer]] = defaultdict(list)
        for row, training in enumerate(trainings):
            member = _MemberOptimizer(training, parameters, row, self._step_counts[row])
            members_by_settings[member.settings].append(member)
        for members in members_by_settings.values():
            self._groups.append((members, _make_fused_step(members)))

    def step(self) -> None:
        """Do one step of every training, each at its own learning rate."""
        self._step_counts.add_(1)
        for members, step_together in self._groups:
            rates = {member.learning_rate for member in members}
            if len(rates) == 1:
                step_together(lr=rates.pop())
                continue
            for member in members:
                member.step(lr=member.learning_rate)
        for block in self._blocks:
            block.update_compute_values()


class _MemberOptimizer:
    """The tensors that the optimiser of one training reads and writes, one vector for each block.

    Args:
        training: The training, whose optimiser's state becomes views of the vectors made here.
        parameters: The stacked parameters.
        row: The training's row in the blocks.
        step_counts: The steps done by each parameter's optimiser [parameters].

    Attributes:
        settings: What a step depends on besides tensors and the learning rate.
        step: A function that does this training's step at a given learning rate, `lr`.
    """

    def __init__(self, training: SegmentTraining, parameters: StackedParameters, row: int, step_counts: Tensor) -> None:
        self.optimizer, self.options = training.optimizer, training.optimizer.param_groups[0]
        self.is_sgd = isinstance(self.optimizer, torch.optim.SGD)
        self.values = [block.values[row] for block in parameters.blocks]
        self.gradients = [block.gradients[row] for block in parameters.blocks]
        self.step_counts = step_counts
        names = moment_names(training.task.train)
        self.state = {name: [torch.zeros_like(values) for values in self.values] for name in names}
        keys = ("weight_decay", "momentum") if self.is_sgd else ("weight_decay", "betas", "eps")
        self.settings: Hashable = (type(self.optimizer), *(self.options[key] for key in keys))

        model_parameters = trainable_parameters(training.model)
        for parameter, slot, count in zip(model_parameters, parameters.slots, step_counts, strict=True):
            self._move_state_in(parameter, slot, parameters.blocks.index(slot.block), count)
        self.step = _make_fused_step([self])

    @property
    def learning_rate(self) -> float:
        """Return the learning rate that the training's schedule has set."""
        return self.options["lr"]

    def _move_state_in(self, parameter: nn.Parameter, slot: Slot, block_number: int, step_count: Tensor) -> None:
        """Copy the optimiser's state of a parameter to the vectors, and make it views of them."""
        before = self.optimizer.state[parameter]
        state = {}
        for name, vectors in self.state.items():
            state[name] = view_of(vectors[block_number], slot.begin, parameter.detach())
            if before.get(name) is not None:
                state[name].copy_(before[name])
        if not self.is_sgd:
            state["step"] = step_count.copy_(torch.as_tensor(before.get("step", 0)))
        self.optimizer.state[parameter] = state


def _make_fused_step(members: Sequence[_MemberOptimizer]) -> Callable[..., object]:
    """Return a function that does a step of members of equal settings at the learning rate `lr`.

    It calls the kernel of PyTorch's fused optimiser, which passes over the tensors once and makes no temporary ones.
    """
    first = members[0]
    kind, options = type(first.optimizer), first.options
    lists: list[list[Tensor]] = [
        [vector for member in members for vector in member.values],
        [vector for member in members for vector in member.gradients],
        *([vector for member in members for vector in member.state[name]] for name in first.state),
    ]
    settings: dict[str, Any] = {"weight_decay": options["weight_decay"], "maximize": False}
    if first.is_sgd:
        lists += [[]] * (3 - len(lists))  # Without momentum there is no state.
        settings |= {"momentum": options["momentum"], "dampening": 0.0, "nesterov": False, "is_first_step": False}
        return partial(torch._fused_sgd_, *lists, **settings)

    step_counts = [member.step_counts[0] for member in members for _ in member.values]
    kernel = torch._fused_adamw_ if kind is torch.optim.AdamW else torch._fused_adam_
    beta1, beta2 = options["betas"]
    settings |= {"beta1": beta1, "beta2": beta2, "eps": options["eps"], "amsgrad": False}
    return partial(kernel, *lists, [], step_counts, **settings)
