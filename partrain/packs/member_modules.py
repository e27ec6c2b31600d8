"""The base of stacked layers, and what they are made from: the M modules that a layer replaces, their tensors stacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partrain.packs.member_rngs import MemberRngs
from partrain.packs.stacked_parameters import StackedParameters


@dataclass(frozen=True)
class MemberModules:
    """Corresponding modules of M trainings, one of each, in the order of the trainings."""

    modules: Sequence[Any]
    parameters: StackedParameters
    """The trainable parameters of the trainings."""
    rngs: MemberRngs
    """The random generators of the trainings."""

    def stack_parameter(self, name: str) -> Callable[[], Tensor | None]:
        """Return a function that returns the modules' parameter `name` as one tensor [M, *shape], or None without one."""
        parameter = getattr(self.modules[0], name)
        if parameter is None:
            return lambda: None
        if parameter.requires_grad:
            return self.parameters.differentiable(parameter)
        frozen = torch.stack([getattr(module, name) for module in self.modules])
        return lambda: frozen

    def stack_buffer(self, name: str) -> Tensor | None:
        """Return the modules' buffer `name` as one tensor [M, *shape], or None without one.

        The modules' own buffers become views of it.
        """
        if getattr(self.modules[0], name) is None:
            return None
        stacked = torch.stack([getattr(module, name) for module in self.modules])
        for module, view in zip(self.modules, stacked, strict=True):
            setattr(module, name, view)
        return stacked


class StackedLayer(nn.Module):
    """A layer that computes M modules of one type at once, called with [M, ...] where they are called with [...].

    Args:
        members: The modules.
    """

    def __init__(self, members: MemberModules) -> None:
        super().__init__()

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...] | None:
        """Return the settings of `module` that stacked modules must share, or None if it cannot be stacked."""
        raise NotImplementedError
