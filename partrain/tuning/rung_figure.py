"""The figure of a search's rungs and brackets: which trials were promoted, dropped or failed, and with which scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, chain, pairwise
from typing import Any

import plotly.graph_objects as go

from partrain.report.plotly_figures import Plot, make_figure
from partrain.report.style import COLOURS
from partrain.tuning.axes import describe_trial, score_position, score_ticks
from partrain.tuning.record import RungRecord, SearchRecord, TrialRecord

_FAINT = "rgba(128, 138, 150, 0.55)"  # Visible on light and on dark panels.
_BRACKET_GAP = 0.35  # Between two brackets, in rungs.
_DOTS_WIDTH = 0.76  # Of a rung's dots side by side, in rungs.
_MIN_SLOTS = 9  # A rung with fewer dots has them as far apart as one with so many.
_MARKERS: dict[str, dict[str, Any]] = {
    "kept": {"color": COLOURS[0], "size": 7},
    "dropped": {"color": _FAINT, "size": 6},
    "failed": {"color": COLOURS[3], "size": 8, "symbol": "x"},
}
_KEPT, _DROPPED, _FAILED = _MARKERS


@dataclass(frozen=True)
class _Scale:
    """The scale of the figure, the same for all columns."""

    rung_distance: float
    """The distance of two rungs on the axes of epochs, in powers of ten."""
    failure_level: float
    """Where failures are drawn on the axis of scores."""


@dataclass(frozen=True)
class _Dot:
    """A trial at a rung."""

    x: float
    """Epochs of the rung, shifted so that the dots of a rung are side by side."""
    y: float
    """The position of the score, or the level of failures."""
    outcome: str
    """A key of `_MARKERS`."""
    trial: TrialRecord
    text: str
    """The text that is shown under the pointer."""


@dataclass(frozen=True)
class _Column:
    """A bracket's column of the figure, from left to right."""

    bracket: int
    rungs: list[RungRecord]
    dots: list[_Dot]
    domain: list[float]
    """The column's part of the figure's width: start and end as fractions."""
    axis: str
    """The name of its horizontal axis in plotly: x, x2, x3 and so on."""


def rung_figures(record: SearchRecord) -> list[Plot]:
    """Return a figure with a column for each bracket: a dot for each score, and lines from rung to rung."""
    all_scores = list(chain.from_iterable(rung.scores.values() for rung in record.rungs()))
    if not all_scores:
        return []
    scores = [score for score in all_scores if score is not None]
    scale = _Scale(_rung_distance(record), _failure_level(record, scores))
    columns = _columns(record, scale)
    figure = make_figure("", record.score_axis, showlegend=True, dragmode=False)
    for column in columns:
        layout_name = column.axis.replace("x", "xaxis")
        figure.update_layout({layout_name: _axis_layout(column, scale)})
        _draw_dots(figure, record, column)
        _add_title(figure, column)
    outcomes = {dot.outcome for dot in chain.from_iterable(column.dots for column in columns)}
    _add_legend(figure, record, outcomes)
    figure.update_yaxes(**score_ticks(record, scores))
    figure.update_layout(margin={"t": 84}, legend={"yref": "container", "y": 1, "yanchor": "top"})
    caption = (
        "Each column is a bracket with configurations of its own; the numbers above it count those in each of its rungs. "
        "After a rung the best configurations are promoted and train on in the next, connected by a line; the others are "
        "dropped. Kept: promoted, or trained in full. The dots of a rung are side by side, best first, and the axis spreads "
        "out the best scores."
    )
    min_width = 60 * sum(len(column.rungs) for column in columns)
    return [Plot("Scores by rung", caption, figure, 480, min_width=min_width)]


# ---- Columns.


def _columns(record: SearchRecord, scale: _Scale) -> list[_Column]:
    """Return the columns of all brackets, from left to right."""
    domains = _domains(list(record.brackets.values()), scale)
    columns = []
    for number, (bracket, rungs) in enumerate(record.brackets.items()):
        dots = list(chain.from_iterable(_rung_dots(record, rungs, rung, scale) for rung in rungs))
        axis = "x" if number == 0 else f"x{number + 1}"
        columns.append(_Column(bracket, rungs, dots, domains[number], axis))
    return columns


def _rung_distance(record: SearchRecord) -> float:
    """Return the shortest distance between two rungs of a bracket on the axis of epochs, in powers of ten."""
    pairs = chain.from_iterable(pairwise(rungs) for rungs in record.brackets.values())
    distances = [math.log10(after.epochs / before.epochs) for before, after in pairs if after.epochs > before.epochs]
    return min(distances, default=math.log10(3))


def _domains(brackets: list[list[RungRecord]], scale: _Scale) -> list[list[float]]:
    """Return each bracket's part of the figure's width, from left to right, such that all have one scale."""
    widths = [1 + math.log10(rungs[-1].epochs / rungs[0].epochs) / scale.rung_distance for rungs in brackets]
    total = sum(widths) + _BRACKET_GAP * (len(widths) - 1)
    starts = accumulate((width + _BRACKET_GAP for width in widths), initial=0.0)
    return [[start / total, min(1.0, (start + width) / total)] for start, width in zip(starts, widths, strict=False)]


def _failure_level(record: SearchRecord, scores: Sequence[float]) -> float:
    """Return where failures are drawn, below the worst score."""
    positions = [score_position(record, score) for score in scores] or [0.0]
    return min(positions) - max(0.03, 0.08 * (max(positions) - min(positions)))


def _rung_dots(record: SearchRecord, rungs: list[RungRecord], rung: RungRecord, scale: _Scale) -> list[_Dot]:
    """Return the dots of one of a bracket's `rungs`, best first, failed trials last."""
    indices = sorted(rung.scores, key=lambda index: (record.sort_key(rung.scores[index]), index))
    spacing = _DOTS_WIDTH * scale.rung_distance / max(_MIN_SLOTS, len(indices) - 1)
    dots = []
    for place, index in enumerate(indices):
        score, trial = rung.scores[index], record.trials[index]
        shift = (place - (len(indices) - 1) / 2) * spacing
        result = escape(rung.failures.get(index, "failed")) if score is None else record.format_score(score)
        dots.append(
            _Dot(
                x=rung.epochs * 10**shift,
                y=scale.failure_level if score is None else score_position(record, score),
                outcome=_outcome(rungs, rung, index),
                trial=trial,
                text=f"<b>configuration {index}</b>, epoch {rung.epochs}: {result}<br>{describe_trial(trial)}",
            )
        )
    return dots


def _outcome(rungs: list[RungRecord], rung: RungRecord, index: int) -> str:
    """Return what became of a trial at the end of one of its bracket's `rungs`."""
    if rung.scores[index] is None:
        return _FAILED
    return _KEPT if index in rung.promoted or rung is rungs[-1] else _DROPPED


# ---- Drawing.


def _axis_layout(column: _Column, scale: _Scale) -> dict[str, Any]:
    """Return plotly's layout of a column's axis of epochs, logarithmic, with a tick at each rung."""
    epochs = [rung.epochs for rung in column.rungs]
    return {
        "type": "log",
        "domain": column.domain,
        "anchor": "y",
        "range": [math.log10(epochs[0]) - scale.rung_distance / 2, math.log10(epochs[-1]) + scale.rung_distance / 2],
        "tickvals": epochs,
        "ticktext": [str(epoch) for epoch in epochs],
        "tickangle": 0,
        "title": {"text": "epochs", "standoff": 8, "font_size": 13},
        "automargin": True,
    }


def _draw_dots(figure: go.Figure, record: SearchRecord, column: _Column) -> None:
    """Draw a column's lines, its dots above them, and the winner above all."""
    paths: dict[int, list[_Dot]] = {}
    for dot in column.dots:
        paths.setdefault(dot.trial.index, []).append(dot)
    line_points = list(
        chain.from_iterable([*((dot.x, dot.y) for dot in path), (None, None)] for path in paths.values())
    )
    figure.add_scatter(
        x=[x for x, _ in line_points],
        y=[y for _, y in line_points],
        xaxis=column.axis,
        mode="lines",
        line={"color": COLOURS[0], "width": 1.2},
        opacity=0.75,
        hoverinfo="skip",
        showlegend=False,
    )
    for outcome, marker in _MARKERS.items():
        points = _points([dot for dot in column.dots if dot.outcome == outcome])
        figure.add_scatter(**points, xaxis=column.axis, mode="markers", marker=marker, name=outcome, showlegend=False)
    winner_path = paths.get(record.winner.index, []) if record.winner else []
    style = _winner_style(len(winner_path))
    figure.add_scatter(**_points(winner_path), xaxis=column.axis, showlegend=False, **style)


def _points(dots: list[_Dot]) -> dict[str, Any]:
    """Return the coordinates and texts of dots, as plotly takes them."""
    return {
        "x": [dot.x for dot in dots],
        "y": [dot.y for dot in dots],
        "text": [dot.text for dot in dots],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _winner_style(num_rungs: int) -> dict[str, Any]:
    """Return the style of the winner's line, which ends in a star after `num_rungs` rungs."""
    marker = {
        "symbol": ["circle"] * (num_rungs - 1) + ["star"],
        "size": [8] * (num_rungs - 1) + [15],
        "color": COLOURS[1],
        "line": {"color": "#ffffff", "width": 1},
        "opacity": 1,
    }
    return {"mode": "lines+markers", "line": {"color": COLOURS[1], "width": 3}, "marker": marker}


def _add_title(figure: go.Figure, column: _Column) -> None:
    """Write a bracket's number, and how many trials each rung has, above its column."""
    sizes = " → ".join(str(rung.num_trials) for rung in column.rungs)
    figure.add_annotation(
        x=sum(column.domain) / 2,
        y=1,
        xref="paper",
        yref="paper",
        yanchor="bottom",
        text=f"<b>bracket {column.bracket}</b><br>{sizes}",
        showarrow=False,
        font_size=12,
    )


def _add_legend(figure: go.Figure, record: SearchRecord, outcomes: set[str]) -> None:
    """Add one entry for each of the `outcomes` to the legend, for all brackets, and one for the winner."""
    for outcome, marker in _MARKERS.items():
        if outcome in outcomes:
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker | {"size": 9}, name=outcome)
    if record.winner:
        name = "winner" if record.results else "best so far"
        figure.add_scatter(x=[None], y=[None], name=name, **_winner_style(1))
