"""The figure of a search's rungs and brackets: who went on, who was dropped, who failed."""

import math
from collections.abc import Iterator
from html import escape
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import plotly.graph_objects as go

from partrain.report.plotly_figures import Plot, make_figure
from partrain.report.style import COLOURS
from partrain.tuning.axes import describe, height, score_ticks
from partrain.tuning.record import RungState, SearchRecord, Standing

_FAINT = "rgba(128, 138, 150, 0.55)"  # seen on light and on dark panels
_GAP = 0.35  # between brackets, in rungs
_WIDTH = 0.76  # of the most dots that stand side by side, in rungs
_MARKERS: dict[str, dict[str, Any]] = {
    "kept": {"color": COLOURS[0], "size": 7},
    "dropped": {"color": _FAINT, "size": 6},
    "failed": {"color": COLOURS[3], "size": 8, "symbol": "x"},
}
_KEPT, _DROPPED, _FAILED = _MARKERS


class _Dot(NamedTuple):
    """A configuration at a rung; `x` in epochs, moved aside from the rung's own by its place there."""

    x: float
    y: float
    kind: str
    configuration: Standing
    text: str


def rungs(record: SearchRecord) -> list[Plot]:
    """A column per bracket: dots by score, those of a rung side by side, best first, and lines from rung to rung."""
    found = [score for rung in record.rungs() for score in rung.scores.values()]
    if not found:
        return []
    scores = [score for score in found if score is not None]
    figure = make_figure("", record.score_axis, showlegend=True, dragmode=False)
    brackets = list(record.brackets.values())
    step, level = _step(brackets), _failure_level(record, scores)
    columns = [list(_dots(record, rungs, step, level)) for rungs in brackets]
    domains = _domains(brackets, step)
    for number, (bracket, dots, domain) in enumerate(zip(record.brackets, columns, domains, strict=True)):
        name = "" if number == 0 else str(number + 1)
        figure.update_layout({f"xaxis{name}": _axis(brackets[number], step, domain)})
        _draw(figure, record, dots, f"x{name}")
        _name(figure, bracket, brackets[number], sum(domain) / 2)
    _add_legend(figure, record, {dot.kind for dots in columns for dot in dots})
    figure.update_yaxes(**score_ticks(record, scores))
    figure.update_layout(margin={"t": 84}, legend={"yref": "container", "y": 1, "yanchor": "top"})
    caption = (
        "A column per bracket, its rungs from left to right, each with the number of its configurations. The dots of a "
        "rung stand side by side, best first; lines lead to the same configuration in the next rung. Kept: promoted, or "
        "trained in full. The axis spreads out the best scores, which stand highest."
    )
    return [Plot("Scores by rung", caption, figure, 480, min_width=60 * sum(map(len, brackets)))]


def _step(brackets: list[list[RungState]]) -> float:
    """How far apart rungs are on the axis, in powers of ten: the shortest distance there is."""
    pairs = [(a.epochs, b.epochs) for rungs in brackets for a, b in pairwise(rungs)]
    return min((math.log10(after / before) for before, after in pairs if after > before), default=math.log10(3))


def _domains(brackets: list[list[RungState]], step: float) -> list[list[float]]:
    """The brackets' shares of the figure's width, from left to right, of one scale."""
    widths = [1 + math.log10(rungs[-1].epochs / rungs[0].epochs) / step for rungs in brackets]
    total = sum(widths) + _GAP * (len(widths) - 1)
    starts = accumulate((width + _GAP for width in widths), initial=0.0)
    return [[start / total, min(1.0, (start + width) / total)] for start, width in zip(starts, widths, strict=False)]


def _axis(rungs: list[RungState], step: float, domain: list[float]) -> dict[str, Any]:
    epochs = [rung.epochs for rung in rungs]
    return {
        "type": "log",
        "domain": domain,
        "anchor": "y",
        "range": [math.log10(epochs[0]) - step / 2, math.log10(epochs[-1]) + step / 2],
        "tickvals": epochs,
        "ticktext": [str(each) for each in epochs],
        "tickangle": 0,
        "title": {"text": "epochs", "standoff": 8, "font_size": 13},
        "automargin": True,
    }


def _failure_level(record: SearchRecord, scores: list[float]) -> float:
    """Where failures are marked: beyond the worst score."""
    heights = [height(record, score) for score in scores] or [0.0]
    return min(heights) - max(0.03, 0.08 * (max(heights) - min(heights)))


def _dots(record: SearchRecord, rungs: list[RungState], step: float, level: float) -> Iterator[_Dot]:
    """Of one bracket, rung by rung."""
    for rung in rungs:
        order = _in_order(record, rung)
        pitch = _WIDTH * step / max(9, len(order) - 1)
        for place, configuration in enumerate(order):
            score = rung.scores[configuration.index]
            shift = (place - (len(order) - 1) / 2) * pitch
            said = record.shown(score) if score is not None else escape(rung.failed.get(configuration.index, "failed"))
            yield _Dot(
                rung.epochs * 10**shift,
                level if score is None else height(record, score),
                _kind(rungs, rung, configuration.index),
                configuration,
                f"<b>configuration {configuration.index}</b>, epoch {rung.epochs}: {said}<br>{describe(configuration)}",
            )


def _in_order(record: SearchRecord, rung: RungState) -> list[Standing]:
    """Those of the rung, best first, failed ones last."""
    indices = sorted(rung.scores, key=lambda index: (record.order(rung.scores[index]), index))
    return [record.standings[index] for index in indices]


def _kind(rungs: list[RungState], rung: RungState, index: int) -> str:
    if rung.scores[index] is None:
        return _FAILED
    return _KEPT if index in rung.promoted or rung is rungs[-1] else _DROPPED


def _draw(figure: go.Figure, record: SearchRecord, dots: list[_Dot], axis: str) -> None:
    """Lines below dots, the winner's above all."""
    trails: dict[int, list[_Dot]] = {}
    for dot in dots:
        trails.setdefault(dot.configuration.index, []).append(dot)
    figure.add_scatter(
        x=[x for trail in trails.values() for x in (*(dot.x for dot in trail), None)],
        y=[y for trail in trails.values() for y in (*(dot.y for dot in trail), None)],
        xaxis=axis,
        mode="lines",
        line={"color": COLOURS[0], "width": 1.2},
        opacity=0.75,
        hoverinfo="skip",
        showlegend=False,
    )
    for kind, marker in _MARKERS.items():
        chosen = [dot for dot in dots if dot.kind == kind]
        figure.add_scatter(**_points(chosen), xaxis=axis, mode="markers", marker=marker, name=kind, showlegend=False)
    best = trails.get(record.winner.index, []) if record.winner else []
    figure.add_scatter(**_points(best), xaxis=axis, showlegend=False, **_winner_style(len(best)))


def _points(dots: list[_Dot]) -> dict[str, Any]:
    return {
        "x": [dot.x for dot in dots],
        "y": [dot.y for dot in dots],
        "text": [dot.text for dot in dots],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _winner_style(count: int) -> dict[str, Any]:
    """A line through its `count` rungs to a star."""
    marker = {
        "symbol": ["circle"] * (count - 1) + ["star"],
        "size": [8] * (count - 1) + [15],
        "color": COLOURS[1],
        "line": {"color": "#ffffff", "width": 1},
        "opacity": 1,
    }
    return {"mode": "lines+markers", "line": {"color": COLOURS[1], "width": 3}, "marker": marker}


def _add_legend(figure: go.Figure, record: SearchRecord, kinds: set[str]) -> None:
    """One entry of each of the `kinds`, for all brackets."""
    for kind, marker in _MARKERS.items():
        if kind in kinds:
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker | {"size": 9}, name=kind)
    if record.winner:
        name = "winner" if record.results else "best so far"
        figure.add_scatter(x=[None], y=[None], name=name, **_winner_style(1))


def _name(figure: go.Figure, bracket: int, rungs: list[RungState], centre: float) -> None:
    """Above a bracket's column: its number, and how many configurations each rung has."""
    sizes = " → ".join(str(rung.size) for rung in rungs)
    figure.add_annotation(
        x=centre,
        y=1,
        xref="paper",
        yref="paper",
        yanchor="bottom",
        text=f"<b>bracket {bracket}</b><br>{sizes}",
        showarrow=False,
        font_size=12,
    )
