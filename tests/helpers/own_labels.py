"""A user's own label families, some of which fail as users' do; the tests name them as module:name."""

import torch
from torch import Generator, Tensor

from partrain.boundaries.labels import LabelSettings


class Ternary:
    """-1, 0 or 1: a family of a user's own."""

    def __init__(self, settings: LabelSettings) -> None:
        self.density = settings.density

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        signs = torch.randint(0, 2, (num_classes, size), generator=generator) * 2.0 - 1
        return signs * (torch.rand(num_classes, size, generator=generator) < self.density)


class Constant(Ternary):
    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        return torch.ones(num_classes, size)


class Misshapen(Ternary):
    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        return torch.rand(size, num_classes, generator=generator)
