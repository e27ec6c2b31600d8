"""Label families as a user may write them, some of which are wrong. Tests name them as module:name."""

import torch
from torch import Generator, Tensor


class Ternary:
    """A family of codes of -1, 0 and 1."""

    def __init__(self, density: float = 0.5) -> None:
        self.density = density

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return random signs, of which a share of `density` is not zero."""
        signs = torch.randint(0, 2, (num_classes, size), generator=generator) * 2.0 - 1
        return signs * (torch.rand(num_classes, size, generator=generator) < self.density)


class Constant(Ternary):
    """A family that gives all classes the same code, which is refused."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return ones."""
        return torch.ones(num_classes, size)


class Misshapen(Ternary):
    """A family whose codes have the wrong shape, which is refused."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return codes with a column, not a row, for each class."""
        return torch.rand(size, num_classes, generator=generator)
