"""Plotly figures of a comparison: every quantity by cell, one panel per network, width and batch size."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

import plotly.graph_objects as go

from partrain.comparison.grid import Cell
from partrain.comparison.summary import largest_process_bytes, median_or_none
from partrain.comparison.table import CellRun
from partrain.report.formatting import byte_unit
from partrain.report.plotly_figures import Plot, height_for_rows, line_style, make_figure, set_row_axis
from partrain.report.style import COLOURS

Rows = dict[Cell, list[CellRun]]


def comparison_plots(runs: Sequence[CellRun], cells: Sequence[Cell]) -> list[Plot]:
    """The figures that can be drawn of the runs so far."""
    plots = []
    for panel, members in groupby(cells, key=_panel):
        rows = {cell: [run for run in runs if run.cell == cell and run.results] for cell in members}
        rows = {cell: found for cell, found in rows.items() if found}
        if rows:
            plots += [speed(panel, rows), accuracy(panel, rows), memory(panel, rows), *traffic(panel, rows)]
            plots += against_time(panel, rows)
    return plots


def speed(panel: str, rows: Rows) -> Plot:
    """Samples per second: the median as a bar, every run as a dot."""
    figure = _make_rows("samples/s")
    _bars(figure, rows, lambda run: run.results["samples_per_second"], "%{x:,.0f} samples/s")
    _dots(figure, rows, lambda run: run.results["samples_per_second"], "%{x:,.0f} samples/s")
    figure.update_xaxes(rangemode="tozero")
    return Plot(
        f"Samples per second · {panel}", "Bar: median of the repeats; dot: a run.", figure, height_for_rows(len(rows))
    )


def accuracy(panel: str, rows: Rows) -> Plot:
    """Test accuracy: every run as a dot."""
    figure = _make_rows("test accuracy, %")
    _dots(figure, rows, lambda run: 100 * run.results["test_accuracy"], "%{x:.2f} %")
    return Plot(
        f"Test accuracy · {panel}", "A dot per run; repeats differ in seed.", figure, height_for_rows(len(rows))
    )


def memory(panel: str, rows: Rows) -> Plot:
    """Peak memory of the largest process."""
    unit, one = byte_unit(max(largest_process_bytes(run) for found in rows.values() for run in found))
    figure = _make_rows(f"peak memory of the largest process, {unit}")
    _bars(figure, rows, lambda run: largest_process_bytes(run) / one, f"%{{x:,.1f}} {unit}")
    _dots(figure, rows, lambda run: largest_process_bytes(run) / one, f"%{{x:,.1f}} {unit}")
    figure.update_xaxes(rangemode="tozero")
    return Plot(f"Peak memory · {panel}", "Bar: median of the repeats; dot: a run.", figure, height_for_rows(len(rows)))


def traffic(panel: str, rows: Rows) -> list[Plot]:
    """Bytes between processes per training step, on a logarithmic axis; who sends nothing has no bar."""
    sending = {cell: found for cell, found in rows.items() if all(run.results["traffic_bytes"] for run in found)}
    unknown = [
        _label(cell) for cell, found in rows.items() if any(run.results["traffic_bytes"] is None for run in found)
    ]
    if not sending:
        return []
    unit, one = byte_unit(max(run.results["traffic_bytes_per_step"] for found in sending.values() for run in found))
    figure = _make_rows(f"traffic per step, {unit}")
    _bars(figure, sending, lambda run: run.results["traffic_bytes_per_step"] / one, f"%{{x:,.4g}} {unit}")
    figure.update_xaxes(type="log", dtick=1, exponentformat="none")
    silent = [label for cell in rows if cell not in sending and (label := _label(cell)) not in unknown]
    caption = "Sent between processes and stored for others, logarithmic; median of the repeats."
    caption += f" Nothing: {', '.join(silent)}." if silent else ""
    caption += f" Not counted, between GPUs: {', '.join(unknown)}." if unknown else ""
    return [Plot(f"Traffic per step · {panel}", caption, figure, height_for_rows(len(rows)))]


def against_time(panel: str, rows: Rows) -> list[Plot]:
    """Test accuracy against time, a line per run, where runs have kept it."""
    figure = make_figure("seconds from the first step", "test accuracy, %")
    for index, (cell, found) in enumerate(rows.items()):
        for run in found:
            curve = run.results["accuracy_curve"]
            if curve:
                figure.add_scatter(
                    x=[point["seconds"] for point in curve],
                    y=[100 * point["test_accuracy"] for point in curve],
                    mode="lines+markers",
                    line=line_style(index),
                    marker_size=4,
                    name=_label(cell),
                    legendgroup=cell.name,
                    showlegend=run is found[0],
                    hovertemplate=f"after %{{x:.1f}} s: %{{y:.2f}} %<extra>{_label(cell)}, repeat {run.repeat}</extra>",
                )
    figure.update_xaxes(rangemode="tozero")
    caption = "Of the whole network, as it was at that time; a line per run."
    return [Plot(f"Test accuracy against time · {panel}", caption, figure, 480)] if figure.data else []


def _panel(cell: Cell) -> str:
    width = f" {cell.width}" if cell.width else ""
    return f"{cell.network}{width}, batch {cell.batch_size}"


def _label(cell: Cell) -> str:
    """What tells a cell from others of its panel."""
    segments = "" if cell.strategy == "end_to_end" else f", K = {cell.segments}"
    pieces = f", {cell.microbatches} microbatches" if cell.microbatches else ""
    return escape(cell.strategy.replace("_", " ") + segments + pieces)


def _colour(cell: Cell) -> str:
    """The strategies that need no communication in colours of their own, all others in one."""
    return {"end_to_end": COLOURS[2], "synthetic": COLOURS[1], "sequential": COLOURS[4]}.get(cell.strategy, COLOURS[5])


def _make_rows(x: str) -> go.Figure:
    figure = make_figure(x, "", bargap=0.35, showlegend=False)
    set_row_axis(figure)
    return figure


def _bars(figure: go.Figure, rows: Rows, value: Callable[[CellRun], float], text: str) -> None:
    figure.add_bar(
        orientation="h",
        y=[_label(cell) for cell in rows],
        x=[median_or_none([value(run) for run in found]) for found in rows.values()],
        marker_color=[_colour(cell) for cell in rows],
        hovertemplate=f"%{{y}}: median {text}<extra></extra>",
    )


def _dots(figure: go.Figure, rows: Rows, value: Callable[[CellRun], float], text: str) -> None:
    runs = [run for found in rows.values() for run in found]
    figure.add_scatter(
        y=[_label(run.cell) for run in runs],
        x=[value(run) for run in runs],
        mode="markers",
        marker={"size": 7, "color": "#000000", "opacity": 0.6},
        customdata=[run.repeat for run in runs],
        hovertemplate=f"%{{y}}, repeat %{{customdata}}: {text}<extra></extra>",
    )
