"""Label families: random codes for the classes at a boundary, drawn from a seeded generator.

A family makes codes of `size` values. On a feature map, `code_layout` lays them out over the boundary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from partrain import checks
from partrain.errors import UserError
from partrain.options import Option, Options

LOSSES = ("similarity", "mse")


class LabelFamily(Protocol):
    """A label generator, such as a user's own class."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return a code for each class: fp32 [num_classes, size], with values of the order of 1."""
        ...


@dataclass(kw_only=True)
class LabelSettings(Option):
    """The settings of the codes at a cut, and of how both sides of it use them. Each option is a label family."""

    group: ClassVar[str] = "labels"

    scale: float | None = None
    """Size of the codes, above 0: the root mean square of their norms for labels.loss=similarity, a factor for mse. By
    default 4 on vectors and 1 on tokens and feature maps for similarity, and 1 for mse."""
    loss: str = "similarity"
    """The loss to the left of a cut: similarity, cross-entropy over products of output and codes, or mse, the mean
    squared distance to the code."""
    noise: float | None = None
    """Blur of the codes to the right of a cut, 0 or more. For similarity it is the mean spread of class scores, by
    default 2.5; for mse the relative deviation of Gaussian noise, by default 0.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("labels.loss", self.loss, LOSSES)
        if self.scale is not None:
            checks.above("labels.scale", self.scale, 0)
        if self.noise is not None:
            checks.at_least("labels.noise", self.noise, 0)

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return a code for each class: fp32 [num_classes, size], with values of the order of 1."""
        raise NotImplementedError

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


@dataclass(kw_only=True)
class UniformLabels(LabelSettings):
    """The settings of codes with values from U(0, 1); times `scale` it is the paper's U(0, κ)."""

    name: str = "uniform"
    """The label family: uniform."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return uniform codes [num_classes, size]."""
        return torch.rand(num_classes, size, generator=generator)


@dataclass(kw_only=True)
class GaussianLabels(LabelSettings):
    """The settings of codes with values from N(0, 1): centred, so that codes of two classes are nearly orthogonal."""

    name: str = "gaussian"
    """The label family: gaussian."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return Gaussian codes [num_classes, size]."""
        return torch.randn(num_classes, size, generator=generator)


@dataclass(kw_only=True)
class BinaryLabels(LabelSettings):
    """The settings of codes whose values are fair coin flips, 0 or 1."""

    name: str = "binary"
    """The label family: binary."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return binary codes [num_classes, size]."""
        return torch.randint(0, 2, (num_classes, size), generator=generator).float()


@dataclass(kw_only=True)
class SparseLabels(LabelSettings):
    """The settings of codes of 0 and 1 with a fraction `density` of ones in every code, at least one."""

    name: str = "sparse"
    """The label family: sparse."""
    density: float = 0.1
    """Fraction of ones in the codes, above 0 and at most 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.density <= 1:
            raise UserError(f"labels.density must be in (0, 1], got {self.density}")

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return sparse codes [num_classes, size]."""
        num_ones = max(1, round(self.density * size))
        positions = torch.rand(num_classes, size, generator=generator).topk(num_ones, dim=1).indices
        return torch.zeros(num_classes, size).scatter_(1, positions, 1.0)


@dataclass(kw_only=True)
class HadamardLabels(LabelSettings):
    """The settings of ±1 codes from rows of a Hadamard matrix, with its columns shuffled.

    They are orthogonal where `size` is a power of two; otherwise they are cut to `size`.
    """

    name: str = "hadamard"
    """The label family: hadamard."""

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


@dataclass(kw_only=True)
class SimplexLabels(LabelSettings):
    """The settings of codes at the corners of a regular simplex, rotated at random.

    All pairs of codes are equally far apart and their mean is zero. The values of a code sum to zero as well, so that a
    shift common to all units changes no similarity. Where the width is too small for such a simplex, the codes are
    Gaussian with their mean taken off.
    """

    name: str = "simplex"
    """The label family: simplex."""

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return simplex codes [num_classes, size]."""
        draws = torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
        if num_classes < size:
            ones = torch.ones(size, 1, dtype=torch.float64)
            draws = torch.linalg.qr(torch.cat((ones, draws), dim=1)).Q[:, 1:]
        corners = draws.T - draws.T.mean(dim=0)
        return (corners / corners.square().mean(dim=1, keepdim=True).sqrt()).float()


@dataclass(kw_only=True)
class CustomLabels(LabelSettings):
    """The settings of a label family of the user's own."""

    is_family: ClassVar[bool] = True

    name: str = ""
    """The class that makes the codes, as module:class, which every training process imports."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the class, such as labels.options.density=0.3. By default none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" not in self.name:
            raise UserError(f"labels=custom needs labels.name=<module>:<class>, got {self.name or 'none'}")

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        """Return the codes [num_classes, size] that the user's class makes.

        Raises:
            UserError: If the class cannot be imported or made.
        """
        family: LabelFamily = checks.make_object("labels", self.name, self.options)
        return family.codes(num_classes, size, generator)


LABELS: Options[LabelSettings] = Options(
    LabelSettings,
    {
        "simplex": SimplexLabels,
        "gaussian": GaussianLabels,
        "hadamard": HadamardLabels,
        "binary": BinaryLabels,
        "sparse": SparseLabels,
        "uniform": UniformLabels,
        "custom": CustomLabels,
    },
)
"""The settings of each label family."""


def make_codes(settings: LabelSettings, num_classes: int, size: int, generator: Generator) -> Tensor:
    """Return the codes [num_classes, size] of the family that `settings` name, not yet scaled.

    Raises:
        UserError: If the family makes no usable codes for these numbers.
    """
    if num_classes < 2:
        raise UserError(f"data: there is {num_classes} class, at least two are needed; choose other data")
    codes = settings.codes(num_classes, size, generator)
    if tuple(codes.shape) != (num_classes, size):
        raise UserError(
            f"labels.name={settings.name}: codes() returned shape {tuple(codes.shape)}, "
            f"expected {(num_classes, size)} (classes, size)"
        )
    if not codes.isfinite().all():
        raise UserError(f"labels.name={settings.name}: codes() returned values that are not finite")
    if len(codes.unique(dim=0)) < num_classes:
        raise UserError(
            f"labels.name={settings.name}: two classes have the same code at a boundary of width {size}; "
            "cut where the network is wider, or change the family or its options"
        )
    return codes
