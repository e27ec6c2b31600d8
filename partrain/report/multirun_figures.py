"""Plotly figures over the runs of a multirun: their accuracy, memory, traffic and curves side by side."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from partrain.report.formatting import byte_unit
from partrain.report.plotly_figures import (
    BarSeries,
    Plot,
    add_horizontal_bars,
    height_for_rows,
    line_style,
    make_figure,
    set_epoch_axis,
    set_row_axis,
)
from partrain.report.record import CurvePoint, RunRecord
from partrain.report.style import COLOURS


def multirun_plots(runs: Mapping[str, RunRecord]) -> list[Plot]:
    """Return the figures of `runs`, by name. Runs without results appear only in the curves by epoch."""
    runs = {escape(name): record for name, record in runs.items()}
    finished = {name: record for name, record in runs.items() if record.results}
    plots = [
        *_accuracy_plots(finished),
        *_memory_plots(finished),
        *_accuracy_over_time_plots(finished),
        *_segment_plots("First segment", runs, position=0),
    ]
    if any(len(record.training_processes) > 1 for record in runs.values()):
        plots += _segment_plots("Last segment", runs, position=-1)
    return [*plots, *_traffic_plots(finished)]


def _accuracy_plots(finished: Mapping[str, RunRecord]) -> list[Plot]:
    """Return the figure of test accuracy, a dot per finished run."""
    if not finished:
        return []
    figure = make_figure("test accuracy, %", "", showlegend=False)
    percentages = [100 * record.results["test_accuracy"] for record in finished.values()]
    figure.add_scatter(
        x=percentages,
        y=list(finished),
        mode="markers+text",
        marker={"size": 12, "color": COLOURS[0]},
        text=[f"{percentage:.2f}" for percentage in percentages],
        textposition="top center",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
    )
    lowest, highest = min(percentages), max(percentages)
    margin = max(0.5, 0.15 * (highest - lowest))
    figure.update_xaxes(range=[lowest - margin, min(100.5, highest + margin)])
    set_row_axis(figure)
    caption = "Of every finished run. The axis does not start at 0."
    return [Plot("Test accuracy", caption, figure, height_for_rows(len(finished)))]


def _memory_plots(finished: Mapping[str, RunRecord]) -> list[Plot]:
    """Return the figure of peak memory, of the largest process and of all, for each finished run where it is known."""
    peaks = {
        name: [process["peak_memory_bytes"] for process in record.results["segments"]]
        for name, record in finished.items()
    }
    peaks = {name: process_peaks for name, process_peaks in peaks.items() if None not in process_peaks}
    if not peaks:
        return []
    totals = {name: sum(process_peaks) for name, process_peaks in peaks.items()}
    unit, unit_bytes = byte_unit(max(totals.values()))
    largest_values = {name: max(process_peaks) / unit_bytes for name, process_peaks in peaks.items()}
    total_values = {name: total / unit_bytes for name, total in totals.items()}
    figure = make_figure(f"peak memory, {unit}", "", barmode="group", bargap=0.3)
    for series in (
        BarSeries("largest process", COLOURS[0], largest_values),
        BarSeries("all processes together", COLOURS[5], total_values),
    ):
        add_horizontal_bars(figure, series, f"%{{x:,.1f}} {unit}")
    caption = "Each process's peak, and the sum of the peaks, which processes may reach at different times."
    return [Plot("Memory", caption, figure, height_for_rows(len(peaks)))]


def _accuracy_over_time_plots(finished: Mapping[str, RunRecord]) -> list[Plot]:
    """Return the figure of test accuracy against time, a line per finished run that recorded it."""
    figure = make_figure("seconds of training", "test accuracy, %", showlegend=True)
    for index, (name, record) in enumerate(finished.items()):
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
    caption = "Accuracy of the whole network, put together from the segments as they were at that time."
    return [Plot("Test accuracy against time", caption, figure, 400)] if figure.data else []


def _segment_plots(title: str, runs: Mapping[str, RunRecord], position: int) -> list[Plot]:
    """Return the figures of decode accuracy and loss by epoch of the process at `position` in each run."""
    curves = {
        name: record.training_processes[position].curve() for name, record in runs.items() if record.training_processes
    }
    return [
        *_curve_plots(f"{title}: decode accuracy", "decode accuracy, %", curves, _decode_accuracy_percent),
        *_curve_plots(f"{title}: loss", "training loss", curves, lambda point: point.loss),
    ]


def _decode_accuracy_percent(point: CurvePoint) -> float | None:
    return point.accuracy and 100 * point.accuracy


def _curve_plots(
    title: str,
    y_label: str,
    curves: Mapping[str, Sequence[CurvePoint]],
    value_of: Callable[[CurvePoint], float | None],
) -> list[Plot]:
    """Return the figure of one value by epoch, a line per run, without runs that never have the value."""
    figure, last_epoch = make_figure("epoch", y_label, showlegend=True), 1.0
    for index, (name, points) in enumerate(curves.items()):
        values = [value_of(point) for point in points]
        if any(value is not None for value in values):
            last_epoch = max(last_epoch, points[-1].epoch)
            epochs = [point.epoch for point in points]
            figure.add_scatter(x=epochs, y=values, name=name, mode="lines+markers", line=line_style(index))
    set_epoch_axis(figure, last_epoch)
    caption = "Of each run, as measured during training."
    return [Plot(title, caption, figure, 400)] if figure.data else []


def _traffic_plots(finished: Mapping[str, RunRecord]) -> list[Plot]:
    """Return the figure of the bytes sent between processes, if any finished run sent some."""
    traffic = {name: record.results["traffic_bytes"] for name, record in finished.items()}
    known = {name: number for name, number in traffic.items() if number is not None}
    if not any(known.values()):
        return []
    unit, unit_bytes = byte_unit(max(known.values()))
    figure = make_figure(f"traffic between processes, {unit}", "", bargap=0.3, showlegend=False)
    series = BarSeries("traffic", COLOURS[1], {name: number / unit_bytes for name, number in known.items()})
    add_horizontal_bars(figure, series, f"%{{x:,.2f}} {unit}")
    caption = "Bytes sent between processes over the whole training."
    return [Plot("Traffic", caption, figure, height_for_rows(len(finished)))]
