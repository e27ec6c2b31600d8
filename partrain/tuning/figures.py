"""Figures of a search: its rungs, its settings against their scores, its best curves, what it took."""

import math
from collections.abc import Sequence
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
from partrain.tuning.axes import describe, height, score_ticks, setting_axis
from partrain.tuning.record import SearchRecord
from partrain.tuning.rung_figure import rungs

_CURVES = 5  # configurations whose curves are drawn

# from grey to vermilion, every colour of a lightness that is seen on light and on dark panels
_SCORES = [[0, "#8d97a3"], [0.4, "#56B4E9"], [0.75, "#E69F00"], [1, "#D55E00"]]


def figures(record: SearchRecord) -> dict[str, list[Plot]]:
    """The figures that can be drawn of the search so far, by the section of the page they are in."""
    return {
        "rungs": rungs(record),
        "parallel": parallel_coordinates(record),
        "curves": [*best_curves(record), *best_against_time(record), *epochs_spent(record)],
    }


def parallel_coordinates(record: SearchRecord) -> list[Plot]:
    """An axis per searched setting, epochs and score last; a line per configuration, coloured by its score."""
    found = [each for each in record.ranked() if each.score is not None]
    if len(found) < 2:
        return []
    axes = [setting_axis(name, form, [each.values.get(name) for each in found]) for name, form in record.forms.items()]
    if len({each.epochs for each in found}) > 1:
        axes.append(_epochs_axis([each.epochs for each in found]))
    scores = [each.score for each in found if each.score is not None]
    heights = [height(record, score) for score in scores]
    label = record.score_axis.replace(" ", "<br>", 1)
    axes.append({"label": label, "values": heights, **score_ticks(record, scores)})
    low = sorted(heights)[len(heights) // 4]  # one grey for the worst: colours are there to tell good ones apart
    line = {"color": heights, "cmin": low, "cmax": max(heights), "colorscale": _SCORES, "showscale": False}
    figure = go.Figure(layout={"template": None, "margin": {"l": 60, "r": 48, "t": 64, "b": 16}})
    figure.add_parcoords(dimensions=axes, line=line, rangefont={"size": 1, "color": "rgba(0, 0, 0, 0)"})
    figure.update_traces(labelfont_size=13, tickfont_size=12)
    caption = (
        f"A line per configuration, the better the warmer its colour; {record.metric_label} after the "
        "epochs that it was trained for. Drag along an axis to choose a range, drag an axis's name to move it."
    )
    return [Plot("Settings and scores", caption, figure, 460, min_width=105 * len(axes))]


def _epochs_axis(values: Sequence[int]) -> dict[str, Any]:
    ticks = sorted(set(values))
    return setting_axis("epochs", "log", values) | {
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [str(tick) for tick in ticks],
    }


def best_curves(record: SearchRecord) -> list[Plot]:
    """Decode accuracy in training against epoch, of the best configurations."""
    ranked = [each for each in record.ranked() if each.score is not None][:_CURVES]
    if record.winner and record.winner not in ranked:
        ranked.insert(0, record.winner)
    figure, last = make_figure("epoch", "decode accuracy, %", showlegend=True), 1.0
    for index, configuration in enumerate(ranked):
        points = [point for point in record.curve(configuration) if point.accuracy is not None]
        if points:
            best = configuration == record.winner
            name = f"configuration {configuration.index}"
            figure.add_scatter(
                x=[point.epoch for point in points],
                y=[100 * point.accuracy for point in points if point.accuracy is not None],
                name=f"<b>{name}</b>" if best else name,
                mode="lines+markers",
                line=_line(index, best),
                marker_size=6,
                hovertemplate=f"epoch %{{x:.3~g}}: %{{y:.2f}} %<extra>{name}<br>{describe(configuration)}</extra>",
            )
            last = max(last, points[-1].epoch)
    set_epoch_axis(figure, last)
    bold = "the winner" if record.results else "the best so far"
    caption = f"Of the segment that ends in the classes, on what it was fed while it trained; bold: {bold}."
    return [Plot("Decode accuracy in training", caption, figure, 400)] if figure.data else []


def _line(index: int, best: bool) -> dict[str, Any]:
    """The winner has the colour that it has in every figure."""
    if best:
        return {"color": COLOURS[1], "width": 3.5}
    return line_style(index + (index > 0))


def best_against_time(record: SearchRecord) -> list[Plot]:
    """The best score of all rungs so far, by the end of each wave."""
    seconds, scored, points = 0.0, [], []
    for stop, spent in zip(record.stops, record.waves, strict=False):
        seconds += spent
        for rung in (rung for rung in record.rungs() if rung.epochs == stop):
            scored += [(record.order(score), index, score) for index, score in rung.scores.items() if score is not None]
        if scored:
            _, index, score = min(scored)
            points.append((seconds, record.scaled(score), record.standings[index]))
    if len(points) < 2:
        return []
    figure = make_figure("seconds of the search", record.score_axis, showlegend=False)
    figure.add_scatter(
        x=[seconds for seconds, _, _ in points],
        y=[score for _, score, _ in points],
        mode="lines+markers",
        line={"color": COLOURS[1], "width": 2, "shape": "hv"},
        marker_size=8,
        text=[f"configuration {each.index}<br>{describe(each)}" for _, _, each in points],
        hovertemplate="after %{x:.1f} s: %{y:.4~g}<extra>%{text}</extra>",
    )
    figure.update_xaxes(rangemode="tozero")
    caption = "On held-out images, of any configuration after any number of epochs; a dot where a wave of rungs ended."
    return [Plot("Best score so far", caption, figure, 400)]


def epochs_spent(record: SearchRecord) -> list[Plot]:
    """Of every bracket, the epochs that its rungs trained, over all their configurations."""
    if record.epochs == 0 or all(len(rungs) == 1 for rungs in record.brackets.values()):
        return []
    figure = make_figure("epochs, over all configurations", "", barmode="stack", bargap=0.35, showlegend=True)
    for number in range(max(map(len, record.brackets.values()))):
        rows = {
            f"bracket {bracket}": rungs[number].epochs_trained
            for bracket, rungs in record.brackets.items()
            if number < len(rungs) and rungs[number].done
        }
        colour = COLOURS[(0, 5, 2, 4, 3, 1)[number % 6]]
        add_horizontal_bars(figure, BarSeries(f"rung {number}", colour, rows), "%{x:,} epochs")
    in_full = sum(rungs[0].size for rungs in record.brackets.values()) * record.last_epoch
    caption = f"All configurations trained in full would have taken {in_full:,} epochs; these took {record.epochs:,}."
    return [Plot("How epochs were spent", caption, figure, height_for_rows(len(record.brackets)))]
