"""Figures of a search's page: its rungs, its settings against their scores, its best curves, and its epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from partrain.report.plotly_figures import (
    BarSeries,
    Plot,
    add_horizontal_bars,
    height_for_rows,
    line_style,
    make_figure,
    set_epoch_axis,
)
from partrain.report.style import COLOURS
from partrain.tuning.axes import describe_trial, score_position, score_ticks, setting_axis
from partrain.tuning.record import SearchRecord, TrialRecord
from partrain.tuning.rung_figure import rung_figures

_NUM_CURVES = 5  # Trials whose curves are drawn.

# From grey to vermilion; each of these colours is visible on light and on dark panels.
_SCORE_COLOURS = [[0, "#8d97a3"], [0.4, "#56B4E9"], [0.75, "#E69F00"], [1, "#D55E00"]]
_RUNG_COLOURS = tuple(COLOURS[number] for number in (0, 5, 2, 4, 3, 1))


def figures(record: SearchRecord) -> dict[str, list[Plot]]:
    """Return the figures that can be drawn of the search so far, by their section of the page."""
    return {
        "rungs": rung_figures(record),
        "parallel": parallel_coordinates(record),
        "curves": [*best_curves(record), *best_against_time(record), *epochs_spent(record)],
    }


# ---- Settings and scores.


def parallel_coordinates(record: SearchRecord) -> list[Plot]:
    """Return a figure with a line for each scored trial, and an axis for each setting, the epochs and the score."""
    trials = [trial for trial in record.ranked() if trial.score is not None]
    if len(trials) < 2:
        return []
    axes = [
        setting_axis(name, distribution, [trial.values.get(name) for trial in trials])
        for name, distribution in record.distributions.items()
    ]
    if len({trial.epochs for trial in trials}) > 1:
        axes.append(_epochs_axis([trial.epochs for trial in trials]))
    scores = [trial.score for trial in trials if trial.score is not None]
    positions = [score_position(record, score) for score in scores]
    score_label = record.score_axis.replace(" ", "<br>", 1)
    axes.append({"label": score_label, "values": positions, **score_ticks(record, scores)})

    figure = go.Figure(layout={"template": None, "margin": {"l": 60, "r": 48, "t": 64, "b": 16}})
    line = _line_colours(positions)
    figure.add_parcoords(dimensions=axes, line=line, rangefont={"size": 1, "color": "rgba(0, 0, 0, 0)"})
    figure.update_traces(labelfont_size=13, tickfont_size=12)
    caption = (
        f"Each line is a configuration, in a warmer colour for a better score: its {record.metric_label} after the last "
        "rung that it finished. Drag along an axis to select a range of values; drag an axis's name to move the axis."
    )
    return [Plot("Settings and scores", caption, figure, 460, min_width=105 * len(axes))]


def _epochs_axis(values: Sequence[int]) -> dict[str, Any]:
    """Return a logarithmic axis with a tick at each number of epochs."""
    ticks = sorted(set(values))
    return setting_axis("epochs", "log", values) | {
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [str(tick) for tick in ticks],
    }


def _line_colours(positions: Sequence[float]) -> dict[str, Any]:
    """Return plotly's colours of lines by score; the worst quarter has one grey, so that good ones differ in colour."""
    lowest = sorted(positions)[len(positions) // 4]
    return {
        "color": positions,
        "cmin": lowest,
        "cmax": max(positions),
        "colorscale": _SCORE_COLOURS,
        "showscale": False,
    }


# ---- Curves.


def best_curves(record: SearchRecord) -> list[Plot]:
    """Return a figure of decode accuracy in training against epochs, for the best trials and the winner."""
    ranked = [trial for trial in record.ranked() if trial.score is not None][:_NUM_CURVES]
    if record.winner and record.winner not in ranked:
        ranked.insert(0, record.winner)
    figure, last_epoch = make_figure("epoch", "decode accuracy, %", showlegend=True), 1.0
    for number, trial in enumerate(ranked):
        last_epoch = max(last_epoch, _add_curve(figure, record, trial, number))
    set_epoch_axis(figure, last_epoch)
    bold = "the winner" if record.results else "the best so far"
    caption = (
        "Measured while the last segment trained, on its own inputs: how often its output decodes to the right class. "
        f"Bold: {bold}."
    )
    return [Plot("Decode accuracy in training", caption, figure, 400)] if figure.data else []


def _add_curve(figure: go.Figure, record: SearchRecord, trial: TrialRecord, number: int) -> float:
    """Add line `number` to the figure, with a trial's decode accuracy, and return its last epoch, 0 without points."""
    points = [point for point in record.curve(trial) if point.accuracy is not None]
    if not points:
        return 0.0
    is_winner = trial == record.winner
    name = f"configuration {trial.index}"
    figure.add_scatter(
        x=[point.epoch for point in points],
        y=[100 * point.accuracy for point in points if point.accuracy is not None],
        name=f"<b>{name}</b>" if is_winner else name,
        mode="lines+markers",
        line=_curve_style(number, is_winner=is_winner),
        marker_size=6,
        hovertemplate=f"epoch %{{x:.3~g}}: %{{y:.2f}} %<extra>{name}<br>{describe_trial(trial)}</extra>",
    )
    return points[-1].epoch


def _curve_style(number: int, *, is_winner: bool) -> dict[str, Any]:
    """Return the style of curve `number`; the winner has the same colour as in every other figure."""
    if is_winner:
        return {"color": COLOURS[1], "width": 3.5}
    return line_style(number + (number > 0))


# ---- The search over time.


@dataclass(frozen=True)
class _BestSoFar:
    """The best score at the end of a round, `seconds` after the search began."""

    seconds: float
    score: float
    trial: TrialRecord


def best_against_time(record: SearchRecord) -> list[Plot]:
    """Return a figure of the best score so far against time, with a point at the end of each round."""
    points = _best_so_far(record)
    if len(points) < 2:
        return []
    figure = make_figure("seconds of the search", record.score_axis, showlegend=False)
    figure.add_scatter(
        x=[point.seconds for point in points],
        y=[record.axis_value(point.score) for point in points],
        mode="lines+markers",
        line={"color": COLOURS[1], "width": 2, "shape": "hv"},
        marker_size=8,
        text=[f"configuration {point.trial.index}<br>{describe_trial(point.trial)}" for point in points],
        hovertemplate="after %{x:.1f} s: %{y:.4~g}<extra>%{text}</extra>",
    )
    figure.update_xaxes(rangemode="tozero")
    caption = (
        f"The best {record.metric_label} so far, of any configuration after any number of epochs. "
        "Each dot is the end of a rung, in one bracket or in several at once."
    )
    return [Plot("Best score so far", caption, figure, 400)]


def _best_so_far(record: SearchRecord) -> list[_BestSoFar]:
    """Return the best score after each round, without rounds before the first score."""
    seconds, scored, points = 0.0, [], []
    for stop, round_seconds in zip(record.round_stops, record.round_seconds, strict=False):
        seconds += round_seconds
        for rung in record.rungs():
            if rung.epochs == stop:
                scores = [(index, score) for index, score in rung.scores.items() if score is not None]
                scored += [(record.sort_key(score), index, score) for index, score in scores]
        if scored:
            _, index, score = min(scored)
            points.append(_BestSoFar(seconds, score, record.trials[index]))
    return points


def epochs_spent(record: SearchRecord) -> list[Plot]:
    """Return a figure of the epochs that each rung trained, summed over its trials, with a bar for each bracket."""
    if record.epochs_trained == 0 or all(len(rungs) == 1 for rungs in record.brackets.values()):
        return []
    figure = make_figure("epochs, over all configurations", "", barmode="stack", bargap=0.35, showlegend=True)
    for number in range(max(map(len, record.brackets.values()))):
        epochs = {
            f"bracket {bracket}": rungs[number].epochs_trained
            for bracket, rungs in record.brackets.items()
            if number < len(rungs) and rungs[number].is_finished
        }
        series = BarSeries(f"rung {number}", _RUNG_COLOURS[number % len(_RUNG_COLOURS)], epochs)
        add_horizontal_bars(figure, series, "%{x:,} epochs")
    in_full = sum(rungs[0].num_trials for rungs in record.brackets.values()) * record.max_epochs
    caption = (
        f"Training every configuration in full would take {in_full:,} epochs; the search has trained "
        f"{record.epochs_trained:,}."
    )
    return [Plot("Epochs by bracket and rung", caption, figure, height_for_rows(len(record.brackets)))]
