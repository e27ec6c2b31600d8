"""Budgets of a search: how many trials each rung trains up to which epoch, and which trials are promoted.

Brackets do not depend on one another, so they advance together, in rounds. A round ends at the next epoch at which any
rung ends, and trials in longer rungs pause there. So each round trains as many trials together as possible. Hyperband
with eta = 3 and 27 epochs, with the number of trials in each rung:

    epochs       0     1       3           9               27
    bracket 3    | 27  |   9   |     3     |       1       |
    bracket 2    |     12      |     4     |       1       |
    bracket 1    |            6            |       2       |
    bracket 0    |                    4                    |
    round           0      1         2             3
    trials         49     31        17             8
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from partrain.errors import UserError


@dataclass(frozen=True)
class Rung:
    """A rung of a bracket: `num_trials` trials train up to `epochs` epochs."""

    num_trials: int
    epochs: int
    """Epochs since the start of the trials' training, those of earlier rungs included."""


@dataclass(frozen=True)
class Bracket:
    """A successive halving over trials of its own, all of which begin in the first rung."""

    number: int
    """How many times the bracket halves its trials. The brackets of a search have different numbers."""
    rungs: tuple[Rung, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the bracket that `to_json` returned as `values`."""
        rungs = (Rung(num_trials=rung["configurations"], epochs=rung["epochs"]) for rung in values["rungs"])
        return cls(values["number"], tuple(rungs))

    def to_json(self) -> dict[str, Any]:
        """Return the bracket as plain JSON, as search.json holds it."""
        rungs = [{"configurations": rung.num_trials, "epochs": rung.epochs} for rung in self.rungs]
        return {"number": self.number, "rungs": rungs}

    def rung_at(self, epochs: int) -> int | None:
        """Return the number of the rung in which trials reach `epochs` epochs, or None beyond the last rung."""
        return next((number for number, rung in enumerate(self.rungs) if rung.epochs >= epochs), None)


@dataclass(frozen=True)
class Round:
    """A part of a search in which the trials of all brackets train together, from epoch `start` to epoch `stop`.

    The rung of at least one bracket ends at `stop`.
    """

    start: int
    stop: int

    def count_epochs(self, brackets: Sequence[Bracket]) -> int:
        """Return how many epochs the round trains, summed over all trials of `brackets` that take part."""
        num_trials = 0
        for bracket in brackets:
            rung = bracket.rung_at(self.stop)
            if rung is not None:
                num_trials += bracket.rungs[rung].num_trials
        return num_trials * (self.stop - self.start)


def plan_rounds(brackets: Sequence[Bracket]) -> list[Round]:
    """Return the fewest consecutive rounds such that every rung of `brackets` ends together with one of them."""
    rungs = chain.from_iterable(bracket.rungs for bracket in brackets)
    stops = sorted({rung.epochs for rung in rungs})
    return [Round(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def hyperband(max_epochs: int, eta: int, min_epochs: int) -> list[Bracket]:
    """Return Hyperband's brackets, the one with the most halvings first.

    The number of trials in a bracket is Algorithm 1, line 2, of Li et al., "Hyperband" (JMLR 18, 2018).

    Args:
        max_epochs: Epochs of the last rung of every bracket.
        eta: One trial in `eta` is promoted, and trains `eta` times as long.
        min_epochs: The fewest epochs of a first rung.

    Raises:
        UserError: If `max_epochs` are too few to halve once.
    """
    max_halvings = _count_halvings("hyperband", max_epochs, eta, min_epochs)
    return [
        _make_bracket(_divide_up((max_halvings + 1) * eta**halvings, halvings + 1), halvings, max_epochs, eta)
        for halvings in range(max_halvings, -1, -1)
    ]


def successive_halving(num_trials: int, max_epochs: int, eta: int, min_epochs: int) -> list[Bracket]:
    """Return one bracket over `num_trials` trials, which halves as often as epochs and trials allow.

    Raises:
        UserError: If the epochs or the trials are too few to halve once.
    """
    halvings = _count_halvings("successive_halving", max_epochs, eta, min_epochs)
    if num_trials < eta:
        raise UserError(
            f"search.configurations={num_trials} is too small for a bracket of successive_halving with "
            f"search.eta={eta}; set it to at least {eta}"
        )
    return [_make_bracket(num_trials, min(halvings, _floor_log(num_trials, eta)), max_epochs, eta)]


def one_rung(num_trials: int, max_epochs: int) -> list[Bracket]:
    """Return one bracket of one rung, in which all trials train in full, as in random and grid search."""
    return [Bracket(0, (Rung(num_trials, max_epochs),))]


def select_best(scores: Mapping[int, float | None], count: int, *, higher_is_better: bool) -> list[int]:
    """Return the indices of the `count` best trials, best first.

    Of trials with equal scores the lower index is better. Trials without a score, which failed, are never selected.
    """
    sign = -1 if higher_is_better else 1
    ranked = sorted((sign * score, index) for index, score in scores.items() if score is not None)
    return [index for _, index in ranked[:count]]


def _count_halvings(method: str, max_epochs: int, eta: int, min_epochs: int) -> int:
    """Return how many times `max_epochs` can be divided by `eta` and still be at least `min_epochs`."""
    if max_epochs < eta * min_epochs:
        raise UserError(
            f"train.epochs={max_epochs} is too small for a bracket of {method} with search.eta={eta} and "
            f"search.min_epochs={min_epochs}; set it to at least {eta * min_epochs}"
        )
    return _floor_log(max_epochs // min_epochs, eta)


def _floor_log(number: int, base: int) -> int:
    """Return the largest power p with `base` ** p <= `number`, exactly, where logarithms would round."""
    power = 0
    while base ** (power + 1) <= number:
        power += 1
    return power


def _divide_up(dividend: int, divisor: int) -> int:
    """Return `dividend` / `divisor` rounded up."""
    return -(-dividend // divisor)


def _make_bracket(num_trials: int, halvings: int, max_epochs: int, eta: int) -> Bracket:
    """Return a bracket that begins with `num_trials` trials and whose last rung ends at `max_epochs`."""
    rungs = (
        Rung(num_trials // eta**number, max_epochs // eta ** (halvings - number)) for number in range(halvings + 1)
    )
    return Bracket(halvings, tuple(rungs))
