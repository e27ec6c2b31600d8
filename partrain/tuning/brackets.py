"""The arithmetic of budgets: how many configurations train until which epoch, and which of them go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from partrain.errors import UserError


@dataclass(frozen=True)
class Rung:
    """So many configurations train until `epochs` epochs are done."""

    configurations: int
    epochs: int


@dataclass(frozen=True)
class Bracket:
    """A successive halving: the configurations of its first rung are its own. `number`: how many times it halves."""

    number: int
    rungs: tuple[Rung, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the bracket that `dataclasses.asdict` made `values` from."""
        return cls(values["number"], tuple(Rung(**rung) for rung in values["rungs"]))

    def on_the_way(self, epochs: int) -> int | None:
        """The number of the rung that its configurations are in while they train until `epochs`; None: beyond its last."""
        return next((number for number, rung in enumerate(self.rungs) if rung.epochs >= epochs), None)


@dataclass(frozen=True)
class Wave:
    """All brackets at once, from epoch `start` until `stop`, where at least one of them has a rung's end."""

    start: int
    stop: int

    def epochs(self, brackets: Sequence[Bracket]) -> int:
        """That all configurations of `brackets` together train in it."""
        rungs = ((bracket, bracket.on_the_way(self.stop)) for bracket in brackets)
        count = sum(bracket.rungs[number].configurations for bracket, number in rungs if number is not None)
        return count * (self.stop - self.start)


def waves(brackets: Sequence[Bracket]) -> list[Wave]:
    """From the first epoch to the last, as few as let every rung of `brackets` end with one."""
    stops = sorted({rung.epochs for bracket in brackets for rung in bracket.rungs})
    return [Wave(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def hyperband(max_epochs: int, eta: int, min_epochs: int) -> list[Bracket]:
    """Hyperband's brackets (Li et al., JMLR 2018), the one that halves most first.

    Raises:
        ValueError: `max_epochs` are too few to halve once.
    """
    halvings = _halvings("hyperband", max_epochs, eta, min_epochs)
    return [
        _halving(-(-(halvings + 1) * eta**number // (number + 1)), number, max_epochs, eta)
        for number in range(halvings, -1, -1)
    ]


def successive_halving(configurations: int, max_epochs: int, eta: int, min_epochs: int) -> list[Bracket]:
    """One bracket, which halves as often as the epochs and the configurations allow.

    Raises:
        ValueError: either are too few to halve once.
    """
    halvings = _halvings("successive_halving", max_epochs, eta, min_epochs)
    if configurations < eta:
        raise UserError(
            f"search.configurations={configurations} is too small for a bracket of successive_halving with "
            f"search.eta={eta}; the smallest that works is {eta}"
        )
    return [_halving(configurations, min(halvings, _power(configurations, eta)), max_epochs, eta)]


def one_rung(configurations: int, max_epochs: int) -> list[Bracket]:
    """All train in full: random search and grid."""
    return [Bracket(0, (Rung(configurations, max_epochs),))]


def promoted(scores: Mapping[int, float | None], count: int, higher_is_better: bool) -> list[int]:
    """The `count` best by score, best first; of equal ones the lower index. Those without a score are never among them."""
    sign = -1 if higher_is_better else 1
    ranked = sorted((sign * score, index) for index, score in scores.items() if score is not None)
    return [index for _, index in ranked[:count]]


def _halvings(method: str, max_epochs: int, eta: int, min_epochs: int) -> int:
    """How many times the epochs can be divided by `eta` and still be `min_epochs`."""
    if max_epochs < eta * min_epochs:
        raise UserError(
            f"train.epochs={max_epochs} is too small for a bracket of {method} with search.eta={eta} and "
            f"search.min_epochs={min_epochs}; the smallest that works is {eta * min_epochs}"
        )
    return _power(max_epochs // min_epochs, eta)


def _power(number: int, base: int) -> int:
    """The largest p with `base` ** p <= `number`; logarithms would round."""
    power = 0
    while base ** (power + 1) <= number:
        power += 1
    return power


def _halving(configurations: int, number: int, max_epochs: int, eta: int) -> Bracket:
    rungs = (Rung(configurations // eta**step, max_epochs // eta ** (number - step)) for step in range(number + 1))
    return Bracket(number, tuple(rungs))
