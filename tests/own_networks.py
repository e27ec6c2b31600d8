"""A user's own networks and label family, some of which fail as users' do; the tests name them as module:name."""

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor

from partrain.labels import LabelSettings


class Thirds:
    """Random codes of three values."""

    def __init__(self, settings: LabelSettings) -> None:
        self.settings = settings

    def codes(self, num_classes: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.randint(-1, 2, (num_classes, size), generator=generator).float()


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))


class _Overflow(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * 1e30 * 1e30


def overflowing() -> nn.Module:
    """Its first segment's output is infinite."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), _Overflow(), nn.ReLU(), nn.Linear(16, 5))


def break_down(values: Tensor) -> Tensor:
    """Fine while shapes are worked out, not on real values."""
    if isinstance(values, FakeTensor):
        return values * 2
    raise RuntimeError("out of coffee")


fx.wrap("break_down")


class _Breakdown(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return break_down(values)


def breaking() -> nn.Module:
    """Its first segment raises an error that is nobody's setting."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), _Breakdown(), nn.ReLU(), nn.Linear(16, 5))
