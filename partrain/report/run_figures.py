"""Figures of a run: how it learnt, and what it takes for what."""

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from partrain.report.canvas import Plot, epoch_axis, line_style, make_figure, name_rows
from partrain.report.process_figures import memory, time_line, traffic
from partrain.report.record import Process, RunRecord
from partrain.report.style import COLOURS

# cividis, with more of its steps where shares are small, so that confusions show beside the diagonal
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
_SHARES = [[(step / 9) ** 2, colour] for step, colour in enumerate(_CIVIDIS)]


def figures(record: RunRecord) -> dict[str, list[Plot]]:
    """The figures that can be drawn of the run so far, by the section of the page they are in."""
    return {
        "training": [*loss_and_accuracy(record), *accuracy_against_time(record)],
        "boundaries": decoded(record),
        "confusions": confusion(record.evaluation),
        "processes": [*time_line(record.processes), *memory(record.processes), *traffic(record.processes)],
    }


def loss_and_accuracy(record: RunRecord) -> list[Plot]:
    """Loss and decode accuracy against epoch, a line per process that sees them."""
    loss, accuracy = make_figure("epoch", "training loss"), make_figure("epoch", "decode accuracy, %")
    positive, last = True, 1.0
    for index, process in enumerate(record.processes):
        points = process.points()
        for figure, values, text in (
            (loss, [point.loss for point in points], "%{y:.4f}"),
            (accuracy, [None if p.accuracy is None else 100 * p.accuracy for p in points], "%{y:.2f} %"),
        ):
            if all(value is None for value in values):
                continue
            figure.add_scatter(
                x=[point.epoch for point in points],
                y=values,
                name=process.name,
                mode="lines+markers",
                line=line_style(index),
                marker_size=6,
                customdata=["" if p.learning_rate is None else f"{p.learning_rate:.2g}" for p in points],
                hovertemplate=f"epoch %{{x:.3~g}}: {text}<br>learning rate %{{customdata}}<extra>{process.name}</extra>",
            )
            last = max(last, points[-1].epoch)
        positive &= all(point.loss is None or point.loss > 0 for point in points)
    tested = _add_test_accuracy(accuracy, record.processes)
    if positive:
        loss.update_yaxes(type="log", dtick="D2", tickformat=".3~g")
    for figure in (loss, accuracy):
        epoch_axis(figure, last)
        figure.update_layout(showlegend=True)
    note = "; diamonds: on the test images, once the segments are put together" if tested else ""
    plots = [
        Plot("Training loss", "Mean over each epoch, every process against its own target.", loss),
        Plot("Decode accuracy", f"On what the process was fed while it trained{note}.", accuracy),
    ]
    return [plot for plot in plots if plot.figure.data]


def _add_test_accuracy(figure: go.Figure, processes: Sequence[Process]) -> bool:
    """Mark at the end of each line what the segment's boundary decodes to on the test images."""
    ends = [
        (index, process.points()[-1].epoch, process.result["decode_accuracy"])
        for index, process in enumerate(processes)
        if process.rows and process.result.get("decode_accuracy") is not None
    ]
    if ends:
        figure.add_scatter(
            x=[epoch for _, epoch, _ in ends],
            y=[100 * value for _, _, value in ends],
            mode="markers",
            marker={
                "symbol": "diamond",
                "size": 12,
                "color": [COLOURS[index % len(COLOURS)] for index, _, _ in ends],
                "line": {"color": "#000000", "width": 1.5},
            },
            text=[processes[index].name for index, _, _ in ends],
            hovertemplate="%{text}, on test images: %{y:.2f} %<extra></extra>",
            showlegend=False,
        )
    return bool(ends)


def accuracy_against_time(record: RunRecord) -> list[Plot]:
    """The whole network's test accuracy while it trains, where the run has kept it."""
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
    return [Plot("Test accuracy against time", "Of the whole network, put together as it was at that time.", figure)]


def decoded(record: RunRecord) -> list[Plot]:
    """What every boundary decodes to: what its segment reached in training, and on the test images."""
    rows = [
        (boundary, process.points()[-1].accuracy, process.result["decode_accuracy"])
        for boundary, process in zip(record.boundaries(), record.processes, strict=False)
        if process.rows and process.result.get("decode_accuracy") is not None
    ]
    if len(rows) < 2:
        return []
    names = [f"{number}: {escape(row[0])}" for number, row in enumerate(rows, start=1)]
    figure = make_figure("decode accuracy, %", "", barmode="group", bargap=0.3)
    for name, values, colour in (
        ("in training, on what its segment was fed", [row[1] for row in rows], COLOURS[5]),
        ("on the test images", [row[2] for row in rows], COLOURS[0]),
    ):
        figure.add_bar(
            orientation="h",
            y=names,
            x=[None if value is None else 100 * value for value in values],
            name=name,
            marker_color=colour,
            texttemplate="%{x:.1f}",
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.2f} %<extra>" + name + "</extra>",
        )
    figure.update_xaxes(range=[0, 105])
    name_rows(figure)
    caption = (
        "How many images a boundary's nearest code names rightly; the last boundary is the network's own accuracy."
    )
    if record.results.get("test_accuracy_before_recovery") is not None:
        caption += " Before the recovery."
    return [Plot("Decode accuracy at every boundary", caption, figure, 110 + 48 * len(rows))]


def confusion(evaluation: dict[str, Any]) -> list[Plot]:
    """The confusion matrix, each row as shares of its class's images."""
    if not evaluation:
        return []
    classes, counts = [escape(name) for name in evaluation["classes"]], evaluation["confusion"]
    totals = [max(1, sum(row)) for row in counts]
    figure = make_figure("taken for", "class")
    figure.add_heatmap(
        x=classes,
        y=classes,
        z=[[number / total for number in row] for row, total in zip(counts, totals, strict=True)],
        customdata=[[[number, total] for number in row] for row, total in zip(counts, totals, strict=True)],
        zmin=0,
        zmax=1,
        colorscale=_SHARES,
        colorbar={
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "thickness": 10,
            "ticklabelposition": "outside top",
            "tickformat": ".0%",
            "tickvals": [0, 0.2, 0.5, 1],
            "tickangle": 0,
            "outlinewidth": 0,
        },
        hovertemplate="%{y} taken for %{x}:<br>%{customdata[0]:,} of %{customdata[1]:,} images, %{z:.2%}<extra></extra>",
    )
    figure.update_xaxes(type="category", showgrid=False, tickangle=0, tickfont_size=9, title_standoff=16)
    figure.update_yaxes(type="category", showgrid=False, tickfont_size=9, autorange="reversed")
    hardest = sorted(evaluation["per_class"].items(), key=lambda item: item[1])[:5]
    named = ", ".join(f"{name} ({accuracy:.0%})" for name, accuracy in hardest)
    caption = f"Shares of each class's test images, on a scale that spreads small ones. Hardest: {named}."
    return [Plot("Confusion matrix", caption, figure, height=800, square=True)]
