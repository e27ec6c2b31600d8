"""Search spaces: the searched settings and their distributions, such as train.lr=loguniform(1e-4,1e-1).

An entry is `<setting>=<distribution>(...)`. The values in the parentheses are YAML.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from partrain.errors import UserError
from partrain.tuning.values import full_name

# How each distribution is written. Both bounds are included.
DISTRIBUTIONS = {
    "choice": "choice(a,b,...)",
    "integer": "integer(low,high)",
    "loginteger": "loginteger(low,high)",
    "loguniform": "loguniform(low,high)",
    "uniform": "uniform(low,high)",
}
_KNOWN = ", ".join(DISTRIBUTIONS.values())
_ENTRY = re.compile(r"\+*([A-Za-z_][\w.]*)=([A-Za-z_]\w*)\((.*)\)", re.DOTALL)
_POWER = re.compile(r"[-+]?\d+[eE][-+]?\d+")


@dataclass(frozen=True)
class Dimension:
    """A searched setting and the distribution of its values."""

    name: str
    distribution: str
    """The name of the distribution, one of `DISTRIBUTIONS`."""
    arguments: tuple[Any, ...]
    """The values of a choice, or the lower and upper bound of any other distribution."""

    @classmethod
    def parse(cls, entry: str) -> "Dimension":
        """Return the dimension that an entry of search.space describes.

        Raises:
            UserError: If the entry has no known distribution, or invalid values or bounds.
        """
        match = _ENTRY.fullmatch(entry.strip())
        if not match:
            raise UserError(
                f"search.space: {entry!r} is not <setting>=<distribution>(...); the distributions are {_KNOWN}"
            )
        name, distribution, text = match.groups()
        if distribution not in DISTRIBUTIONS:
            raise UserError(f"{entry}: {distribution} is unknown; known: {_KNOWN}")
        arguments = _parse_arguments(entry, distribution, text)
        if distribution == "choice":
            _check_choice(entry, arguments)
        else:
            _check_bounds(entry, distribution, arguments)
        return cls(name, distribution, tuple(arguments))

    @property
    def is_logarithmic(self) -> bool:
        """Return whether the logarithm of the values is uniformly distributed."""
        return self.distribution.startswith("log")

    @property
    def is_integer(self) -> bool:
        """Return whether the values are integers between two bounds."""
        return self.distribution.endswith("integer")

    def quantile(self, probability: float) -> Any:
        """Return the value below which drawn values are with `probability`, where 0 <= probability < 1."""
        if self.distribution == "choice":
            return self.arguments[int(probability * len(self.arguments))]
        from scipy.stats import loguniform, uniform  # Importing scipy takes a second, which other scripts save.

        low, high = self.arguments
        end = high + 1 if self.is_integer else high
        family, shape = (loguniform, (low, end)) if self.is_logarithmic else (uniform, (low, end - low))
        value = min(max(float(family.ppf(probability, *shape)), low), high)  # Rounding can exceed the bounds.
        return math.floor(value) if self.is_integer else value

    def grid_values(self) -> list[Any]:
        """Return all values of the setting, in order.

        Raises:
            UserError: If the distribution is continuous.
        """
        if self.distribution == "choice":
            return list(self.arguments)
        low, high = self.arguments
        if not self.is_integer:
            raise UserError(
                f"{self.name}={self.distribution}({low},{high}) is continuous, which search.method=grid cannot search; "
                "give choice(a,b,...) or integer(low,high)"
            )
        return list(range(low, high + 1))


@dataclass(frozen=True)
class Space:
    """A search space: the searched settings and their distributions, in the order of search.space."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, entries: Sequence[str]) -> "Space":
        """Return the space that the entries of search.space describe.

        Raises:
            UserError: If there is no entry, one of them is invalid, or two are of the same setting.
        """
        if not entries:
            raise UserError("search.space is empty; give at least one setting, e.g. 'train.lr=loguniform(1e-4,1e-1)'")
        dimensions = tuple(map(Dimension.parse, entries))
        seen: set[str] = set()
        for dimension in dimensions:
            if full_name(dimension.name) in seen:
                raise UserError(f"search.space: {dimension.name} is given twice; give it once")
            seen.add(full_name(dimension.name))
        return cls(dimensions)

    @property
    def names(self) -> list[str]:
        """Return the names of the searched settings."""
        return [dimension.name for dimension in self.dimensions]

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """Return a value for every setting, by name, each drawn independently."""
        return {dimension.name: dimension.quantile(generator.random()) for dimension in self.dimensions}

    def grid(self) -> list[dict[str, Any]]:
        """Return all combinations of values, by name; the last setting changes fastest.

        Raises:
            UserError: If a setting has a continuous distribution.
        """
        points = itertools.product(*(dimension.grid_values() for dimension in self.dimensions))
        return [dict(zip(self.names, point, strict=True)) for point in points]


def _parse_arguments(entry: str, distribution: str, text: str) -> list[Any]:
    """Return the values that the YAML between an entry's parentheses lists."""
    try:
        arguments: list[Any] = _convert_powers(yaml.safe_load(f"[{text}]"))
    except (yaml.YAMLError, ValueError):  # PyYAML raises ValueError for an impossible date.
        raise UserError(
            f"{entry}: the values in the parentheses are not valid YAML; write {DISTRIBUTIONS[distribution]}"
        ) from None
    return arguments


def _convert_powers(value: Any) -> Any:
    """Return `value` with numbers such as 1e-4 as floats, which YAML reads as text; lists are converted within."""
    if isinstance(value, list):
        return [_convert_powers(item) for item in value]
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value


def _check_choice(entry: str, values: list[Any]) -> None:
    """Raise `UserError` unless a choice has values, all of them different."""
    if not values:
        raise UserError(f"{entry}: there is nothing to choose from; write {DISTRIBUTIONS['choice']}")
    if any(value in values[:number] for number, value in enumerate(values)):
        raise UserError(f"{entry}: a value is repeated; give each value once")


def _check_bounds(entry: str, distribution: str, bounds: list[Any]) -> None:
    """Raise `UserError` unless a distribution has two finite bounds, the lower one first."""
    number_type, type_name = (int, "an integer") if distribution.endswith("integer") else (int | float, "a number")
    for bound in bounds:
        if not isinstance(bound, number_type) or isinstance(bound, bool) or not math.isfinite(bound):
            raise UserError(f"{entry}: {bound} is not {type_name}")
    if len(bounds) != 2:
        raise UserError(
            f"{entry}: {distribution} has two bounds, got {len(bounds)}; write {DISTRIBUTIONS[distribution]}"
        )
    low, high = bounds
    if low > high:
        raise UserError(f"{entry}: the lower bound must be first; write {distribution}({high},{low})")
    if low == high:
        raise UserError(f"{entry}: the bounds are equal; give two different bounds, or set the one value")
    if distribution.startswith("log") and low <= 0:
        raise UserError(f"{entry}: the bounds of {distribution} must be greater than 0, got {low}")
