"""Label families: the random code of every class at a boundary, from (seed, boundary index, shape) alone.

A family makes codes for `size` values; where a boundary is a feature map, `boundaries` says how they lie on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Generator, Tensor

from partrain import checks
from partrain.errors import UserError

LOSSES = ("similarity", "mse")


@dataclass(kw_only=True)
class LabelSettings:
    """Which codes, and how the two sides of a boundary agree on them.

    `family`: one of `FAMILIES` or "module:Class" of your own. `density`: the fraction of ones, sparse family only.
    `loss`: what the left side is held to; similarity is cross-entropy over the products of output and codes.
    `scale`: for mse code values are multiplied by it (None: 1), for similarity it is the norm of the codes (None: 4, and 1
    on feature maps, which have more values).
    `noise`: how blurred the codes are that the right side is fed; for mse the deviation of Gaussian noise relative to
    the codes' own (None: 0.5), for similarity the mean spread of the class scores in a mixture (None: 2.5).
    """

    family: str = "simplex"
    scale: float | None = None
    density: float = 0.1
    loss: str = "similarity"
    noise: float | None = None

    def __post_init__(self) -> None:
        if not self.family:
            raise UserError("labels=custom needs labels.family=<module>:<class>")
        if ":" not in self.family:
            checks.one_of("labels", self.family, FAMILIES)
        checks.one_of("labels.loss", self.loss, LOSSES)
        if not 0 < self.density <= 1:
            raise UserError(f"labels.density must be in (0, 1], got {self.density}")
        if self.scale is not None:
            checks.above("labels.scale", self.scale, 0)
        if self.noise is not None:
            checks.at_least("labels.noise", self.noise, 0)

    def scale_at(self, shape: Sequence[int]) -> float:
        """`scale` at a boundary of `shape`."""
        if self.scale is not None:
            return self.scale
        return 4.0 if self.loss == "similarity" and len(shape) == 1 else 1.0

    def noise_level(self) -> float:
        """`noise`, or what is sound for the loss."""
        if self.noise is not None:
            return self.noise
        return 2.5 if self.loss == "similarity" else 0.5


class LabelFamily(Protocol):
    """A label generator: a class made with the settings, whose `codes` are drawn from the generator it is given."""

    def __init__(self, settings: LabelSettings) -> None: ...

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """One code per class: fp32 [num_classes, size], values of the order of 1."""
        ...


class _Family:
    def __init__(self, settings: LabelSettings) -> None:
        self.settings = settings


class Uniform(_Family):
    """Values from U(0, 1), times `scale` the paper's U(0, κ)."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        return torch.rand(num_classes, size, generator=generator)


class Gaussian(_Family):
    """Values from N(0, 1): centred, so that codes of two classes are nearly orthogonal."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        return torch.randn(num_classes, size, generator=generator)


class Binary(_Family):
    """Fair coins: 0 or 1."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        return torch.randint(0, 2, (num_classes, size), generator=generator).float()


class Sparse(_Family):
    """0 or 1, with exactly `density` of every code's values ones, at least one."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        ones = max(1, round(self.settings.density * size))
        places = torch.rand(num_classes, size, generator=generator).topk(ones, dim=1).indices
        return torch.zeros(num_classes, size).scatter_(1, places, 1.0)


class Hadamard(_Family):
    """±1: rows of a Hadamard matrix, orthogonal where `size` is a power of two, else cut to size; columns shuffled."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        order = 1 << (size - 1).bit_length()
        # the first row and column are all ones and tell no class apart
        if num_classes > size - 1:
            raise UserError(
                f"labels=hadamard gives at most {size - 1} classes at a boundary of width {size}, the data have "
                f"{num_classes}; cut where the network is wider, or take labels=gaussian"
            )
        matrix = torch.from_numpy(hadamard(order, dtype=np.float32))
        rows = 1 + torch.randperm(order - 1, generator=generator)[:num_classes]
        columns = torch.randperm(order, generator=generator)[:size]
        return matrix[rows][:, columns]


class Simplex(_Family):
    """The corners of a regular simplex, turned at random: all pairs of codes are equally far apart, their mean is zero.

    The values of a code sum to zero as well, so that a shift common to all units changes no similarity. Where the width
    allows no such simplex, the nearest thing: Gaussian codes with their mean taken off.
    """

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        draws = torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
        if num_classes < size:
            ones = torch.ones(size, 1, dtype=torch.float64)
            draws = torch.linalg.qr(torch.cat((ones, draws), dim=1)).Q[:, 1:]
        corners = draws.T - draws.T.mean(dim=0)
        return (corners / corners.square().mean(dim=1, keepdim=True).sqrt()).float()


FAMILIES: dict[str, type[LabelFamily]] = {
    "uniform": Uniform,
    "gaussian": Gaussian,
    "binary": Binary,
    "sparse": Sparse,
    "hadamard": Hadamard,
    "simplex": Simplex,
}


def make_codes(settings: LabelSettings, num_classes: int, size: int, generator: Generator) -> Tensor:
    """The codes [num_classes, size] of the family that `settings` name, not yet scaled.

    Raises:
        ValueError: the family is unknown, or makes no usable codes for these numbers.
    """
    family = FAMILIES.get(settings.family) or checks.imported("labels.family", settings.family)
    codes = family(settings).codes(num_classes, size, generator)
    if tuple(codes.shape) != (num_classes, size) or not codes.isfinite().all():
        raise UserError(
            f"labels.family={settings.family}: codes must be finite and of shape {(num_classes, size)}, "
            f"got {tuple(codes.shape)}"
        )
    if len(codes.unique(dim=0)) < num_classes:
        raise UserError(
            f"labels.family={settings.family}: two classes have the same code at a boundary of width {size}; "
            "cut where the network is wider, or change the family or labels.density"
        )
    return codes
