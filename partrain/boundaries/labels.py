"""Label families: random codes for the classes at a boundary, drawn from a seeded generator.

A family makes codes of `size` values. On a feature map, `code_layout` lays them out over the boundary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from partrain import checks
from partrain.errors import UserError

LOSSES = ("similarity", "mse")


@dataclass(kw_only=True)
class LabelSettings:
    """The settings of the codes at a cut, and of how both sides of it use them."""

    family: str = "simplex"
    """The label family: simplex, gaussian, hadamard, binary, sparse, uniform, or your own as module:Class."""
    scale: float | None = None
    """Size of the codes, above 0: the root mean square of their norms for labels.loss=similarity, a factor for mse. By
    default 4 on vectors and 1 on tokens and feature maps for similarity, and 1 for mse."""
    density: float = 0.1
    """Fraction of ones in the codes of labels=sparse, above 0 and at most 1."""
    loss: str = "similarity"
    """The loss to the left of a cut: similarity, cross-entropy over products of output and codes, or mse, the mean
    squared distance to the code."""
    noise: float | None = None
    """Blur of the codes to the right of a cut, 0 or more. For similarity it is the mean spread of class scores, by
    default 2.5; for mse the relative deviation of Gaussian noise, by default 0.5."""

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
        """Return the scale of codes at a boundary of `shape` per image, which is a vector if it has one dimension."""
        if self.scale is not None:
            return self.scale
        return 4.0 if self.loss == "similarity" and len(shape) == 1 else 1.0

    def noise_level(self) -> float:
        """Return the noise, or the default for the loss where none is set."""
        if self.noise is not None:
            return self.noise
        return 2.5 if self.loss == "similarity" else 0.5


class LabelFamily(Protocol):
    """A label generator: a class that is made with the settings and draws codes from the generator it is given."""

    def __init__(self, settings: LabelSettings) -> None: ...

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return a code for each class: fp32 [num_classes, size], with values of the order of 1."""
        ...


class _Family:
    def __init__(self, settings: LabelSettings) -> None:
        self.settings = settings


class Uniform(_Family):
    """The family of codes with values from U(0, 1); times `scale` it is the paper's U(0, κ)."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return uniform codes [num_classes, size]."""
        return torch.rand(num_classes, size, generator=generator)


class Gaussian(_Family):
    """The family of codes with values from N(0, 1): centred, so that codes of two classes are nearly orthogonal."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return Gaussian codes [num_classes, size]."""
        return torch.randn(num_classes, size, generator=generator)


class Binary(_Family):
    """The family of codes whose values are fair coin flips, 0 or 1."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return binary codes [num_classes, size]."""
        return torch.randint(0, 2, (num_classes, size), generator=generator).float()


class Sparse(_Family):
    """The family of codes of 0 and 1 with a fraction `density` of ones in every code, at least one."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return sparse codes [num_classes, size]."""
        num_ones = max(1, round(self.settings.density * size))
        positions = torch.rand(num_classes, size, generator=generator).topk(num_ones, dim=1).indices
        return torch.zeros(num_classes, size).scatter_(1, positions, 1.0)


class Hadamard(_Family):
    """The family of ±1 codes from rows of a Hadamard matrix, with its columns shuffled.

    They are orthogonal where `size` is a power of two; otherwise they are cut to `size`.
    """

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return Hadamard codes [num_classes, size].

        Raises:
            UserError: If there are more classes than rows that tell classes apart.
        """
        order = 1 << (size - 1).bit_length()
        # The first row and column are all ones and tell no class apart.
        if num_classes > size - 1:
            raise UserError(
                f"labels=hadamard gives at most {size - 1} classes at a boundary of width {size}, the data have "
                f"{num_classes}; cut where the network is wider, or take labels=gaussian"
            )
        from scipy.linalg import hadamard  # Importing it takes a tenth of a second, which other families save.

        matrix = torch.from_numpy(hadamard(order, dtype=np.float32))
        rows = 1 + torch.randperm(order - 1, generator=generator)[:num_classes]
        columns = torch.randperm(order, generator=generator)[:size]
        return matrix[rows][:, columns]


class Simplex(_Family):
    """The family of codes at the corners of a regular simplex, rotated at random.

    All pairs of codes are equally far apart and their mean is zero. The values of a code sum to zero as well, so that a
    shift common to all units changes no similarity. Where the width is too small for such a simplex, the codes are
    Gaussian with their mean taken off.
    """

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return simplex codes [num_classes, size]."""
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
    """Return the codes [num_classes, size] of the family that `settings` name, not yet scaled.

    Raises:
        UserError: If the family is unknown, or makes no usable codes for these numbers.
    """
    if num_classes < 2:
        raise UserError(f"data: there is {num_classes} class, at least two are needed; choose other data")
    family = FAMILIES.get(settings.family) or checks.import_object("labels.family", settings.family)
    codes = family(settings).codes(num_classes, size, generator)
    if tuple(codes.shape) != (num_classes, size):
        raise UserError(
            f"labels.family={settings.family}: codes() returned shape {tuple(codes.shape)}, "
            f"expected {(num_classes, size)} (classes, size)"
        )
    if not codes.isfinite().all():
        raise UserError(f"labels.family={settings.family}: codes() returned values that are not finite")
    if len(codes.unique(dim=0)) < num_classes:
        raise UserError(
            f"labels.family={settings.family}: two classes have the same code at a boundary of width {size}; "
            "cut where the network is wider, or change the family or labels.density"
        )
    return codes
