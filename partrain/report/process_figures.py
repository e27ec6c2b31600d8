"""Plotly figures of a run's processes: when each trained, and how much memory, traffic and CPU time it took."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from partrain.report.formatting import byte_unit
from partrain.report.plotly_figures import (
    BarSeries,
    Plot,
    add_horizontal_bars,
    height_for_rows,
    line_style,
    make_figure,
    set_row_axis,
)
from partrain.report.record import ProcessRecord
from partrain.report.style import COLOURS


def timeline_plots(processes: Sequence[ProcessRecord]) -> list[Plot]:
    """Return the figure of when each process trained, a row per process and a bar per epoch."""
    starts = [process.timeline[0][0] for process in processes if process.timeline]
    if not starts:
        return []
    figure = make_figure("seconds since the first epoch began", "", barmode="overlay", bargap=0.35, showlegend=False)
    for index, process in enumerate(processes):
        _add_epochs(figure, process, line_style(index)["color"], min(starts))
    set_row_axis(figure)
    figure.update_xaxes(rangemode="tozero")
    caption = "When each process trained, a bar per epoch."
    return [Plot("Time line", caption, figure, height_for_rows(len(starts)))]


def _add_epochs(figure: go.Figure, process: ProcessRecord, colour: str, start: float) -> None:
    """Add a bar per epoch of `process`, in seconds after `start`."""
    epochs = process.timeline
    figure.add_bar(
        orientation="h",
        y=[process.label] * len(epochs),
        base=[first - start for first, _ in epochs],
        x=[last - first for first, last in epochs],
        marker={"color": colour, "line": {"color": "#ffffff", "width": 1.5}},
        customdata=[[number, last - start] for number, (_, last) in enumerate(epochs, start=1)],
        hovertemplate="epoch %{customdata[0]}: %{base:.1f} s to %{customdata[1]:.1f} s, %{x:.1f} s long<extra>"
        + process.label
        + "</extra>",
    )


def memory_plots(processes: Sequence[ProcessRecord]) -> list[Plot]:
    """Return the figure of each finished process's peak memory, where it is known: parameters, optimiser state, other."""
    processes = [process for process in processes if process.result.get("peak_memory_bytes") is not None]
    peaks = _result_bytes(processes, "peak_memory_bytes")
    if not peaks:
        return []
    parameters = _result_bytes(processes, "parameter_bytes")
    state = _result_bytes(processes, "optimizer_state_bytes")
    other = {label: max(0, peak - parameters[label] - state[label]) for label, peak in peaks.items()}
    unit, unit_bytes = byte_unit(max(peaks.values()))
    figure = make_figure(f"peak memory, {unit}", "", barmode="stack", bargap=0.35)
    for series in (
        BarSeries("parameters", COLOURS[0], parameters),
        BarSeries("optimiser state", COLOURS[4], state),
        BarSeries("other", COLOURS[5], other),
    ):
        add_horizontal_bars(figure, _in_units(series, unit_bytes), f"%{{x:.1f}} {unit}")
    caption = "Each process's memory at its peak. Other: gradients, activations and libraries."
    return [Plot("Memory", caption, figure, height_for_rows(len(peaks)))]


def traffic_plots(processes: Sequence[ProcessRecord]) -> list[Plot]:
    """Return the figure of the bytes that each finished process sent and received, if any sent one."""
    sent, received = _result_bytes(processes, "sent_bytes"), _result_bytes(processes, "received_bytes")
    if not any(sent.values()):
        return []
    unit, unit_bytes = byte_unit(max(*sent.values(), *received.values()))
    figure = make_figure(f"traffic, {unit}", "", barmode="group", bargap=0.35)
    for series in (BarSeries("sent", COLOURS[1], sent), BarSeries("received", COLOURS[2], received)):
        add_horizontal_bars(figure, _in_units(series, unit_bytes), f"%{{x:,.2f}} {unit}")
    caption = "Bytes that each process sent to and received from the others, over the whole training."
    return [Plot("Traffic", caption, figure, height_for_rows(len(sent)))]


def utilisation_plots(processes: Sequence[ProcessRecord]) -> list[Plot]:
    """Return the figure of how much of its threads' time each finished process computed, if that is known."""
    fractions = {process.label: process.result.get("utilization") for process in processes}
    percentages = {label: 100 * fraction for label, fraction in fractions.items() if fraction is not None}
    if not percentages:
        return []
    figure = make_figure("utilisation, %", "", bargap=0.35, showlegend=False)
    add_horizontal_bars(figure, BarSeries("utilisation", COLOURS[2], percentages), "%{x:.0f} %")
    figure.update_xaxes(range=[0, max(100, *percentages.values())])
    caption = "CPU time that the process used, as a percentage of the time that its threads had."
    return [Plot("Utilisation", caption, figure, height_for_rows(len(percentages)))]


def _result_bytes(processes: Sequence[ProcessRecord], key: str) -> dict[str, int]:
    """Return a number of bytes in each finished process's result, by the process's label. A missing one is 0."""
    return {process.label: int(process.result.get(key) or 0) for process in processes if process.result}


def _in_units(series: BarSeries, unit_bytes: int) -> BarSeries:
    """Return a series of bytes in units of `unit_bytes`."""
    values: Mapping[str, float] = {label: number / unit_bytes for label, number in series.values.items()}
    return series._replace(values=values)
