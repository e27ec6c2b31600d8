"""Axes of settings and scores for the figures of a search, with round numbers as ticks of logarithmic axes.

The position of a score on its axis is the logarithm of what it lacks: the error (100 % minus the accuracy) or the loss,
with the lowest on top. So the best scores of a search, which are close together, are drawn apart.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from partrain.report.formatting import format_setting
from partrain.tuning.record import SearchRecord, TrialRecord

_ROUND_DIGITS = (1, 5, 2, 3, 7, 1.5, 4, 2.5)  # Leading digits of ticks, the first choice first.
_FINE_DIGITS = tuple(number / 10 for number in range(11, 100))  # For axes with too few round numbers.
_ENOUGH_TICKS = 4  # With as many round ticks no fine ones are added.
_MAX_INTEGER_TICKS = 12
_MIN_GAP = 0.085  # Between two ticks, as a fraction of the axis.
_MIN_ERROR = 0.01  # In percent; an error of 0 % has no logarithm.
_MIN_LOSS = 1e-6
_MAX_LABEL = 18  # Characters of a tick's label.


def score_position(record: SearchRecord, score: float) -> float:
    """Return the position of a score on its axis."""
    return -math.log10(_shortfall(record, score))


def score_ticks(record: SearchRecord, scores: Sequence[float]) -> dict[str, Any]:
    """Return plotly's ticks for an axis from the worst to the best of `scores`."""
    shortfalls = [_shortfall(record, score) for score in scores]
    ticks = log_ticks(min(shortfalls), max(shortfalls)) if shortfalls else []
    texts = [f"{100 - tick if record.higher_is_better else tick:.4g}" for tick in ticks]
    return {"tickvals": [-math.log10(tick) for tick in ticks], "ticktext": texts}


def _shortfall(record: SearchRecord, score: float) -> float:
    """Return the error in percent, or the loss, of a score; never 0."""
    if record.higher_is_better:
        return max(100 * (1 - score), _MIN_ERROR)
    return max(score, _MIN_LOSS)


def log_ticks(lowest: float, highest: float) -> list[float]:
    """Return ticks at round numbers for a logarithmic axis from `lowest` to `highest`, or at its ends without any."""
    ticks: list[float] = []
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    min_gap = _MIN_GAP * math.log10(highest / lowest)
    # All powers of the first digits, then of the next, each tick only where no other is near. From 0.001 to 0.1:
    # 0.001 0.01 0.1, then 0.005 0.05, 0.002 0.02, 0.003 0.03, and no 0.007, which is too near to 0.005.
    for digits in _ROUND_DIGITS + _FINE_DIGITS:
        if digits == _FINE_DIGITS[0] and len(ticks) >= _ENOUGH_TICKS:
            break
        for tick in (float(f"{digits}e{power}") for power in powers):
            if lowest <= tick <= highest and all(abs(math.log10(tick / other)) > min_gap for other in ticks):
                ticks.append(tick)
    return sorted(ticks) if len(ticks) > 1 else sorted({lowest, highest})


def setting_axis(name: str, distribution: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return plotly's dimension of a searched setting, for parallel coordinates.

    Values that are not numbers become categories. The axis is logarithmic if the distribution is.

    Args:
        name: The setting's dotted name.
        distribution: How its values are distributed, such as "loguniform(1e-4,1e-1)".
        values: Its values, one for each line of the figure.
    """
    group, dot, key = name.rpartition(".")
    label = {"label": f"{escape(group + dot)}<br>{escape(key)}"}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return label | _category_axis(values)
    if distribution.startswith("log") and min(values) > 0:
        return label | _log_axis(values)
    return label | _linear_axis(values, is_choice=distribution.startswith("choice"))


def _category_axis(values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis with a tick for each different value, in alphabetical order."""
    names = sorted({format_setting(value) for value in values})
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(_shorten(name)) for name in names],
        "values": [names.index(format_setting(value)) for value in values],
    }


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis."""
    ticks = log_ticks(min(values), max(values))
    return {
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [f"{tick:.4g}" for tick in ticks],
        "values": [math.log10(value) for value in values],
    }


def _linear_axis(values: Sequence[float], *, is_choice: bool) -> dict[str, Any]:
    """Return a linear axis, with a tick at each value of a choice or of a few integers."""
    has_few_integers = len(set(values)) < _MAX_INTEGER_TICKS and all(isinstance(value, int) for value in values)
    ticks = {"tickvals": sorted(set(values))} if is_choice or has_few_integers else {}
    return ticks | {"values": list(values)}


def _shorten(label: str) -> str:
    """Return a tick's label, cut where it is too long."""
    return label if len(label) < _MAX_LABEL else f"{label[: _MAX_LABEL - 2]}…"


def describe_trial(trial: TrialRecord) -> str:
    """Return the values of a trial's settings as HTML, one in a line, as plotly shows them."""
    return "<br>".join(f"{escape(name)} {escape(format_setting(value))}" for name, value in trial.values.items())
