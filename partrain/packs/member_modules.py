"""What a stacked layer is, and what it is made from: the M modules that it stands for, their tensors side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partrain.packs.member_rngs import MemberRngs
from partrain.packs.stacked_parameters import StackedParameters


@dataclass(frozen=True)
class MemberModules:
    """`modules`, one of each training; the weights that training changes lie in `rows`."""

    modules: Sequence[Any]
    rows: StackedParameters
    streams: MemberRngs

    def parameter(self, name: str) -> Callable[[], Tensor | None]:
        """Gives the modules' parameter `name` as one tensor [M, *shape]; None where they have none."""
        parameter = getattr(self.modules[0], name)
        if parameter is None:
            return lambda: None
        if parameter.requires_grad:
            return self.rows.tensor(parameter)
        frozen = torch.stack([getattr(module, name) for module in self.modules])
        return lambda: frozen

    def buffer(self, name: str) -> Tensor | None:
        """The modules' buffers `name` as one [M, *shape], of which they get views; None where they have none."""
        if getattr(self.modules[0], name) is None:
            return None
        together = torch.stack([getattr(module, name) for module in self.modules])
        for module, own in zip(self.modules, together, strict=True):
            setattr(module, name, own)
        return together


class StackedLayer(nn.Module):
    """A layer that stands for M modules of one type, to be called with [M, ...] as they are called with theirs."""

    def __init__(self, parts: MemberModules) -> None:
        super().__init__()

    @staticmethod
    def key(module: Any) -> tuple[Any, ...] | None:
        """What `module` computes by, besides its tensors; None: such a one cannot be stacked."""
        raise NotImplementedError
