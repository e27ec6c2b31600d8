"""Plotly figures over several runs: a multirun's, or a comparison's."""

from collections.abc import Callable, Mapping
from html import escape

from partrain.report.canvas import Plot, add_rows, epoch_axis, line_style, make_figure, name_rows, rows_height
from partrain.report.formatting import byte_unit
from partrain.report.record import Point, Process, RunRecord
from partrain.report.style import COLOURS


def runs_figures(runs: Mapping[str, RunRecord]) -> list[Plot]:
    """What can be drawn of `runs`, by name; those without results are left out where results are shown."""
    runs = {escape(name): record for name, record in runs.items()}
    done = {name: record for name, record in runs.items() if record.results}
    plots = [
        *_accuracy(done),
        *_memory(done),
        *_accuracy_against_time(done),
        *_curves(runs, "First segment", lambda parts: parts[0]),
    ]
    if any(len(record.parts) > 1 for record in runs.values()):
        plots += _curves(runs, "Last segment", lambda parts: parts[-1])
    return [*plots, *_traffic(done)]


def _accuracy(done: Mapping[str, RunRecord]) -> list[Plot]:
    if not done:
        return []
    figure = make_figure("test accuracy, %", "", showlegend=False)
    values = [100 * record.results["test_accuracy"] for record in done.values()]
    figure.add_scatter(
        x=values,
        y=list(done),
        mode="markers+text",
        marker={"size": 12, "color": COLOURS[0]},
        text=[f"{value:.2f}" for value in values],
        textposition="top center",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
    )
    margin = max(0.5, 0.15 * (max(values) - min(values)))
    figure.update_xaxes(range=[min(values) - margin, min(100.5, max(values) + margin)])
    name_rows(figure)
    return [
        Plot(
            "Test accuracy", "Of every run that is done; the axis does not begin at 0.", figure, rows_height(len(done))
        )
    ]


def _accuracy_against_time(done: Mapping[str, RunRecord]) -> list[Plot]:
    figure = make_figure("seconds of training", "test accuracy, %", showlegend=True)
    for index, (name, record) in enumerate(done.items()):
        curve = record.results.get("accuracy_curve") or []
        if curve:
            figure.add_scatter(
                x=[point["seconds"] for point in curve],
                y=[100 * point["test_accuracy"] for point in curve],
                name=name,
                mode="lines+markers",
                line=line_style(index),
                hovertemplate="after %{x:.1f} s: %{y:.2f} %",
            )
    figure.update_xaxes(rangemode="tozero")
    caption = "Of the whole network, put together as it was at that time."
    return [Plot("Test accuracy against time", caption, figure, 400)] if figure.data else []


def _curves(runs: Mapping[str, RunRecord], which: str, choose: Callable[[list[Process]], Process]) -> list[Plot]:
    """Decode accuracy and loss against epoch of one process of each run."""
    chosen = {name: choose(record.parts).points() for name, record in runs.items() if record.parts}
    return [
        *_curve(chosen, f"{which}: decode accuracy", "decode accuracy, %", lambda p: p.accuracy and 100 * p.accuracy),
        *_curve(chosen, f"{which}: loss", "training loss", lambda point: point.loss),
    ]


def _curve(
    runs: Mapping[str, list[Point]], title: str, axis: str, value: Callable[[Point], float | None]
) -> list[Plot]:
    figure, last = make_figure("epoch", axis, showlegend=True), 1.0
    for index, (name, points) in enumerate(runs.items()):
        values = [value(point) for point in points]
        if any(each is not None for each in values):
            last = max(last, points[-1].epoch)
            epochs = [point.epoch for point in points]
            figure.add_scatter(x=epochs, y=values, name=name, mode="lines+markers", line=line_style(index))
    epoch_axis(figure, last)
    return [Plot(title, "By epoch, while it trained.", figure, 400)] if figure.data else []


def _memory(done: Mapping[str, RunRecord]) -> list[Plot]:
    if not done:
        return []
    peaks = {name: [part["peak_memory_bytes"] for part in record.results["segments"]] for name, record in done.items()}
    unit, one = byte_unit(max(map(sum, peaks.values())))
    figure = make_figure(f"peak memory, {unit}", "", barmode="group", bargap=0.3)
    for name, measure, colour in (("largest process", max, COLOURS[0]), ("all processes together", sum, COLOURS[5])):
        rows = {run: measure(parts) / one for run, parts in peaks.items()}
        add_rows(figure, rows, name, colour, f"%{{x:,.1f}} {unit}")
    caption = "Peaks; those of several processes need not fall together."
    return [Plot("Memory", caption, figure, rows_height(len(done)))]


def _traffic(done: Mapping[str, RunRecord]) -> list[Plot]:
    sent = {name: number for name, record in done.items() if (number := record.results["traffic_bytes"]) is not None}
    if not any(sent.values()):
        return []
    unit, one = byte_unit(max(sent.values()))
    figure = make_figure(f"between processes, {unit}", "", bargap=0.3, showlegend=False)
    rows = {name: number / one for name, number in sent.items()}
    add_rows(figure, rows, "traffic", COLOURS[1], f"%{{x:,.2f}} {unit}")
    return [Plot("Traffic", "Over the whole training.", figure, rows_height(len(done)))]
