"""Search spaces: which values each searched setting can have, and how likely they are.

An entry says so as `<setting>=<form>(...)`, e.g. `train.lr=loguniform(1e-4,1e-1)`; the values are YAML.
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

# bounds are included
FORMS = {
    "choice": "choice(a,b,...)",
    "integer": "integer(low,high)",
    "loginteger": "loginteger(low,high)",
    "loguniform": "loguniform(low,high)",
    "uniform": "uniform(low,high)",
}
_KNOWN = ", ".join(FORMS.values())
_ENTRY = re.compile(r"\+*([A-Za-z_][\w.]*)=([A-Za-z_]\w*)\((.*)\)", re.DOTALL)
_POWER = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # which YAML takes for text


@dataclass(frozen=True)
class Dimension:
    """A searched setting. `arguments`: the values of a choice; of all other forms the two bounds."""

    name: str
    form: str
    arguments: tuple[Any, ...]

    @classmethod
    def parse(cls, entry: str) -> "Dimension":
        """Raises `ValueError` where `entry` is of no known form, or its bounds or values are none."""
        found = _ENTRY.fullmatch(entry.strip())
        if not found:
            raise UserError(f"search.space: {entry!r} is not <setting>=<form>(...); forms: {_KNOWN}")
        name, form, inside = found.groups()
        if form not in FORMS:
            raise UserError(f"{entry}: {form} is unknown; known: {_KNOWN}")
        try:
            values = _numbers(yaml.safe_load(f"[{inside}]"))
        except yaml.YAMLError:
            raise UserError(f"{entry}: what is in the parentheses cannot be read; write {FORMS[form]}") from None
        (_check_choice if form == "choice" else _check_bounds)(entry, form, values)
        return cls(name, form, tuple(values))

    @property
    def is_logarithmic(self) -> bool:
        return self.form.startswith("log")

    @property
    def is_integer(self) -> bool:
        return self.form.endswith("integer")

    def at(self, share: float) -> Any:
        """The value below which `share`, in [0, 1), of all draws are."""
        if self.form == "choice":
            return self.arguments[int(share * len(self.arguments))]
        from scipy.stats import loguniform, uniform  # a second that other scripts do without

        low, high = self.arguments
        end = high + 1 if self.is_integer else high
        drawn = loguniform.ppf(share, low, end) if self.is_logarithmic else uniform.ppf(share, low, end - low)
        value = min(max(float(drawn), low), high)  # against rounding at the ends
        return math.floor(value) if self.is_integer else value

    def grid(self) -> list[Any]:
        """All its values."""
        if self.form == "choice":
            return list(self.arguments)
        low, high = self.arguments
        if not self.is_integer:
            raise UserError(
                f"{self.name}={self.form}({low},{high}) has no end of values for search.method=grid; "
                "give choice(a,b,...) or integer(low,high)"
            )
        return list(range(low, high + 1))


@dataclass(frozen=True)
class Space:
    """The searched settings, in the order they are given in."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, entries: Sequence[str]) -> "Space":
        """Raises `ValueError` where there is no entry, one of them is wrong, or two are of the same setting."""
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
        return [dimension.name for dimension in self.dimensions]

    def sample(self, random: np.random.Generator) -> dict[str, Any]:
        """A configuration: a value for every setting, each drawn on its own."""
        return {dimension.name: dimension.at(random.random()) for dimension in self.dimensions}

    def grid(self) -> list[dict[str, Any]]:
        """All configurations; those that differ in the last setting alone are neighbours.

        Raises:
            ValueError: a setting has no end of values.
        """
        values = itertools.product(*(dimension.grid() for dimension in self.dimensions))
        return [dict(zip(self.names, each, strict=True)) for each in values]


def _numbers(value: Any) -> Any:
    """`value` with 1e-4 as the number that it is."""
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value


def _check_choice(entry: str, form: str, values: list[Any]) -> None:
    if not values:
        raise UserError(f"{entry}: there is nothing to choose from; write {FORMS[form]}")
    if any(value in values[:number] for number, value in enumerate(values)):
        raise UserError(f"{entry}: a value is repeated; give each once")


def _check_bounds(entry: str, form: str, bounds: list[Any]) -> None:
    kind, sort = (int, "an integer") if form.endswith("integer") else (int | float, "a number")
    for bound in bounds:
        if not isinstance(bound, kind) or isinstance(bound, bool) or not math.isfinite(bound):
            raise UserError(f"{entry}: {bound} is not {sort}")
    if len(bounds) != 2:
        raise UserError(f"{entry}: {form} has two bounds, got {len(bounds)}; write {FORMS[form]}")
    low, high = bounds
    if low > high:
        raise UserError(f"{entry}: the lower bound comes first; write {form}({high},{low})")
    if low == high:
        raise UserError(f"{entry}: the bounds are equal; set the one value, or give two bounds")
    if form.startswith("log") and low <= 0:
        raise UserError(f"{entry}: the bounds of {form} must be greater than 0, got {low}")
