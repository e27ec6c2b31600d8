"""Plotly figures of one run: how it learned, what its boundaries decode to, and which classes it confuses."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from typing import Any, NamedTuple

import plotly.graph_objects as go

from partrain.report.plotly_figures import Plot, line_style, make_figure, set_epoch_axis, set_row_axis
from partrain.report.process_figures import memory_plots, timeline_plots, traffic_plots, utilisation_plots
from partrain.report.record import CurvePoint, ProcessRecord, RunRecord
from partrain.report.style import COLOURS

_CIVIDIS = (
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
)
# Small fractions get most of the colours, so that confusions are visible beside the diagonal.
_FRACTION_COLOURS = [[(step / 9) ** 2, colour] for step, colour in enumerate(_CIVIDIS)]
_FRACTION_BAR = {
    "orientation": "h",
    "y": 1,
    "yanchor": "bottom",
    "thickness": 10,
    "ticklabelposition": "outside top",
    "tickformat": ".0%",
    "tickvals": [0, 0.2, 0.5, 1],
    "tickangle": 0,
    "outlinewidth": 0,
}


def run_plots(record: RunRecord) -> dict[str, list[Plot]]:
    """Return the figures that the run's files so far suffice for, by the section of the page that shows them."""
    processes = record.processes
    lines = _lines(processes)
    return {
        "training": [*loss_plots(lines), *decode_accuracy_plots(lines), *accuracy_over_time_plots(record)],
        "boundaries": boundary_plots(record),
        "confusions": confusion_plots(record.evaluation),
        "processes": [
            *timeline_plots(processes),
            *memory_plots(processes),
            *traffic_plots(processes),
            *utilisation_plots(processes),
        ],
    }


# ---- Curves by epoch.


class _Line(NamedTuple):
    """A process's line in the figures of curves by epoch."""

    number: int
    name: str
    points: list[CurvePoint]
    test_accuracy: float | None
    """How often the process's output decodes rightly on the test images, from 0 to 1, if that is known."""


def _lines(processes: Sequence[ProcessRecord]) -> list[_Line]:
    return [
        _Line(number, process.name, process.curve(), process.test_decode_accuracy)
        for number, process in enumerate(processes)
    ]


def loss_plots(lines: Sequence[_Line]) -> list[Plot]:
    """Return the figure of training loss by epoch, a line per process that computes a loss."""
    figure = make_figure("epoch", "training loss", showlegend=True)
    for line in lines:
        _add_line(figure, line, [point.loss for point in line.points], "%{y:.4f}")

    points = chain.from_iterable(line.points for line in lines)
    if all(point.loss is None or point.loss > 0 for point in points):
        figure.update_yaxes(type="log", dtick="D2", tickformat=".3~g")
    set_epoch_axis(figure, _last_epoch(lines))
    caption = "Mean over each epoch. Every process trains towards a target of its own."
    return [Plot("Training loss", caption, figure)] if figure.data else []


def decode_accuracy_plots(lines: Sequence[_Line]) -> list[Plot]:
    """Return the figure of decode accuracy by epoch, a line per process that measures it."""
    figure = make_figure("epoch", "decode accuracy, %", showlegend=True)
    for line in lines:
        values = [None if point.accuracy is None else 100 * point.accuracy for point in line.points]
        _add_line(figure, line, values, "%{y:.2f} %")

    tested = _add_test_accuracies(figure, lines)
    set_epoch_axis(figure, _last_epoch(lines))
    caption = "How often a process's output decodes to the right class, on the inputs that it trained on."
    if tested:
        caption += " Diamonds: on the test images, with the trained segments put together."
    return [Plot("Decode accuracy", caption, figure)] if figure.data else []


def _add_line(figure: go.Figure, line: _Line, values: Sequence[float | None], value_template: str) -> None:
    """Add a line with a value for each of its points, unless there is no value at all."""
    if all(value is None for value in values):
        return
    rates = ["" if point.learning_rate is None else f"{point.learning_rate:.2g}" for point in line.points]
    hover_text = f"epoch %{{x:.3~g}}: {value_template}<br>learning rate %{{customdata}}<extra>{line.name}</extra>"
    figure.add_scatter(
        x=[point.epoch for point in line.points],
        y=values,
        name=line.name,
        mode="lines+markers",
        line=line_style(line.number),
        marker_size=6,
        customdata=rates,
        hovertemplate=hover_text,
    )


def _last_epoch(lines: Sequence[_Line]) -> float:
    """Return the epoch at which the longest line with a loss or an accuracy ends, and 1 if there is none."""
    drawn = [line for line in lines if any((p.loss, p.accuracy) != (None, None) for p in line.points)]
    return max([1.0, *(line.points[-1].epoch for line in drawn)])


def _add_test_accuracies(figure: go.Figure, lines: Sequence[_Line]) -> bool:
    """Mark how often each boundary decodes rightly on the test images. Return whether there was anything to mark."""
    tested = [(line, line.test_accuracy) for line in lines if line.test_accuracy is not None]
    if tested:
        figure.add_scatter(
            x=[line.points[-1].epoch for line, _ in tested],
            y=[100 * accuracy for _, accuracy in tested],
            mode="markers",
            marker={
                "symbol": "diamond",
                "size": 12,
                "color": [COLOURS[line.number % len(COLOURS)] for line, _ in tested],
                "line": {"color": "#000000", "width": 1.5},
            },
            text=[line.name for line, _ in tested],
            hovertemplate="%{text}, on test images: %{y:.2f} %<extra></extra>",
            showlegend=False,
        )
    return bool(tested)


# ---- Accuracy of the whole network and of every boundary.


def accuracy_over_time_plots(record: RunRecord) -> list[Plot]:
    """Return the figure of the whole network's test accuracy against time, if the run recorded it."""
    curve = record.results.get("accuracy_curve") or []
    if not curve:
        return []
    figure = make_figure("seconds of training", "test accuracy, %")
    figure.add_scatter(
        x=[point["seconds"] for point in curve],
        y=[100 * point["test_accuracy"] for point in curve],
        mode="lines+markers",
        line=line_style(0),
        hovertemplate="after %{x:.1f} s: %{y:.2f} %<extra></extra>",
    )
    figure.update_xaxes(rangemode="tozero")
    caption = "Accuracy of the whole network, put together from the segments as they were at that time."
    return [Plot("Test accuracy against time", caption, figure)]


class _BoundaryAccuracy(NamedTuple):
    """The decode accuracy of a boundary, in per cent."""

    label: str
    in_training: float | None
    on_test_images: float


def boundary_plots(record: RunRecord) -> list[Plot]:
    """Return the figure of every boundary's decode accuracy, in training and on the test images."""
    boundaries = _boundary_accuracies(record)
    if len(boundaries) < 2:
        return []
    figure = make_figure("decode accuracy, %", "", barmode="group", bargap=0.3)
    in_training = {boundary.label: boundary.in_training for boundary in boundaries}
    on_test_images = {boundary.label: boundary.on_test_images for boundary in boundaries}
    _add_percent_bars(figure, "in training, on the segment's own inputs", COLOURS[5], in_training)
    _add_percent_bars(figure, "on the test images", COLOURS[0], on_test_images)
    figure.update_xaxes(range=[0, 105])
    set_row_axis(figure)
    caption = (
        "How often a boundary's activations decode to the right class, that whose code fits them best. "
        "The last boundary's is the accuracy of the network."
    )
    if record.results.get("test_accuracy_before_recovery") is not None:
        caption += " All are measured before the recovery."
    return [Plot("Decode accuracy at every boundary", caption, figure, 110 + 48 * len(boundaries))]


def _boundary_accuracies(record: RunRecord) -> list[_BoundaryAccuracy]:
    """Return the accuracies of the boundaries that were evaluated, with labels such as "1: codes, 512 (relu2)"."""
    evaluated = [
        (label, process, process.test_decode_accuracy)
        for label, process in zip(record.boundary_labels(), record.processes, strict=False)
        if process.test_decode_accuracy is not None
    ]
    accuracies = []
    for number, (label, process, accuracy) in enumerate(evaluated, start=1):
        in_training = process.curve()[-1].accuracy
        accuracies.append(
            _BoundaryAccuracy(
                label=f"{number}: {escape(label)}",
                in_training=None if in_training is None else 100 * in_training,
                on_test_images=100 * accuracy,
            )
        )
    return accuracies


def _add_percent_bars(figure: go.Figure, name: str, colour: str, percentages: Mapping[str, float | None]) -> None:
    """Add a series of horizontal bars, one per label of `percentages`, with the percentage written beside it."""
    figure.add_bar(
        orientation="h",
        y=list(percentages),
        x=list(percentages.values()),
        name=name,
        marker_color=colour,
        texttemplate="%{x:.1f}",
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f} %<extra>" + name + "</extra>",
    )


# ---- Confusions.


def confusion_plots(evaluation: dict[str, Any]) -> list[Plot]:
    """Return the figure of the confusion matrix, in which each row adds up to 1, if there is an evaluation."""
    if not evaluation:
        return []
    figure = make_figure("predicted class", "true class")
    _add_confusion_matrix(figure, [escape(name) for name in evaluation["classes"]], evaluation["confusion"])
    figure.update_xaxes(type="category", showgrid=False, tickangle=0, tickfont_size=9, title_standoff=16)
    figure.update_yaxes(type="category", showgrid=False, tickfont_size=9, autorange="reversed")
    hardest = sorted(evaluation["per_class"].items(), key=lambda item: item[1])[:5]
    listed = ", ".join(f"{name} ({accuracy:.0%})" for name, accuracy in hardest)
    caption = (
        "Fraction of each class's test images that got a prediction. The colour scale spreads small fractions. "
        f"Classes with the lowest accuracy: {listed}."
    )
    return [Plot("Confusion matrix", caption, figure, height=800, is_square=True)]


def _add_confusion_matrix(figure: go.Figure, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Add a heat map of `counts` [true class, predicted class], each row divided by its sum."""
    fractions, hover_counts = [], []
    for row in counts:
        total = max(1, sum(row))
        fractions.append([number / total for number in row])
        hover_counts.append([[number, total] for number in row])
    figure.add_heatmap(
        x=classes,
        y=classes,
        z=fractions,
        customdata=hover_counts,
        zmin=0,
        zmax=1,
        colorscale=_FRACTION_COLOURS,
        colorbar=_FRACTION_BAR,
        hovertemplate="%{y} taken for %{x}:<br>%{customdata[0]:,} of %{customdata[1]:,} images, %{z:.2%}<extra></extra>",
    )
