"""Axes of settings and scores, and settings as text: logarithmic axes have ticks at round numbers.

A score stands on its axis by the logarithm of what is lost: the error, 100 % less the accuracy, or the loss; the less,
the higher. So the best of a search, which are close together, are told apart, and the worst still have their place.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from partrain.report.formatting import format_setting
from partrain.tuning.record import SearchRecord, Standing

_ROUND = (1, 5, 2, 3, 7, 1.5, 4, 2.5)  # digits that ticks begin with, in the order in which they take their places
_FINE = tuple(number / 10 for number in range(11, 100))  # where the round ones are too few
_MOST = 12  # ticks at whole numbers
_ROOM = 0.085  # between two ticks, as a share of the axis
_LEAST = {True: 0.01, False: 1e-6}  # an error of 0 % and a loss of 0 have no logarithm


def height(record: SearchRecord, score: float) -> float:
    """Where `score` stands on its axis."""
    return -math.log10(_lost(record, score))


def score_ticks(record: SearchRecord, scores: Sequence[float]) -> dict[str, Any]:
    """Of an axis on which `scores` stand."""
    lost = [_lost(record, score) for score in scores]
    ticks = log_ticks(min(lost), max(lost)) if lost else []
    texts = [f"{100 - tick if record.higher_is_better else tick:.4g}" for tick in ticks]
    return {"tickvals": [-math.log10(tick) for tick in ticks], "ticktext": texts}


def _lost(record: SearchRecord, score: float) -> float:
    lost = 100 * (1 - score) if record.higher_is_better else score
    return max(lost, _LEAST[record.higher_is_better])


def log_ticks(lowest: float, highest: float) -> list[float]:
    """Round numbers between the two, on a logarithmic axis from one to the other; the two themselves where none is."""
    ticks: list[float] = []
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    room = _ROOM * math.log10(highest / lowest)
    for digits in _ROUND + _FINE:
        if digits == _FINE[0] and len(ticks) > 3:
            break
        for tick in (float(f"{digits}e{power}") for power in powers):
            if lowest <= tick <= highest and all(abs(math.log10(tick / other)) > room for other in ticks):
                ticks.append(tick)
    return sorted(ticks) if len(ticks) > 1 else sorted({lowest, highest})


def setting_axis(name: str, form: str, values: Sequence[Any]) -> dict[str, Any]:
    """plotly's dimension of the setting `name`, distributed as `form` says.

    By categories where it is no number, logarithmic where it is drawn so, else linear.
    """
    group, dot, own = name.rpartition(".")
    axis: dict[str, Any] = {"label": f"{escape(group + dot)}<br>{escape(own)}"}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = sorted({format_setting(value) for value in values})
        axis["tickvals"], axis["ticktext"] = list(range(len(names))), [escape(_short(each)) for each in names]
        return axis | {"values": [names.index(format_setting(value)) for value in values]}
    if form.startswith("log") and min(values) > 0:
        ticks = log_ticks(min(values), max(values))
        axis["tickvals"], axis["ticktext"] = [math.log10(tick) for tick in ticks], [f"{tick:.4g}" for tick in ticks]
        return axis | {"values": [math.log10(value) for value in values]}
    if form.startswith("choice") or (len(set(values)) < _MOST and all(isinstance(value, int) for value in values)):
        axis["tickvals"] = sorted(set(values))
    return axis | {"values": list(values)}


def _short(name: str) -> str:
    return name if len(name) < 18 else f"{name[:16]}…"


def describe(configuration: Standing) -> str:
    """Its settings, a line each, as plotly's texts have lines."""
    return "<br>".join(
        f"{escape(name)} {escape(format_setting(value))}" for name, value in configuration.values.items()
    )
