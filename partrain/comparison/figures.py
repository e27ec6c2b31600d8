"""Plotly figures of a comparison: each quantity by cell, with separate figures for each network, width and batch size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain, groupby

import plotly.graph_objects as go

from partrain.comparison.grid import Cell
from partrain.comparison.summary import largest_process_bytes, median_or_none
from partrain.comparison.table import CellRun
from partrain.report.formatting import byte_unit
from partrain.report.plotly_figures import Plot, height_for_rows, line_style, make_figure, set_row_axis
from partrain.report.style import COLOURS

# Strategies that send nothing in a step have colours of their own, and all others share one.
_STRATEGY_COLOURS = {"end_to_end": COLOURS[2], "synthetic": COLOURS[1], "sequential": COLOURS[4]}
_OTHER_COLOUR = COLOURS[5]


@dataclass(frozen=True)
class Panel:
    """The cells that are compared in one figure: those of one network, width and batch size.

    Attributes:
        title: The network, width and batch size, e.g. "mlp 512, batch 256".
        runs_by_cell: The finished runs of each cell that has any.
    """

    title: str
    runs_by_cell: dict[Cell, list[CellRun]]

    @property
    def runs(self) -> list[CellRun]:
        """Return the finished runs of all cells."""
        return list(chain.from_iterable(self.runs_by_cell.values()))

    @property
    def height(self) -> int:
        """Return the height in pixels of a figure with a row per cell."""
        return height_for_rows(len(self.runs_by_cell))


def comparison_plots(runs: Sequence[CellRun], cells: Sequence[Cell]) -> list[Plot]:
    """Return the figures that the finished ones among `runs` suffice for."""
    plots = []
    for panel in _panels(runs, cells):
        plots += [speed_plot(panel), accuracy_plot(panel), *memory_plots(panel)]
        plots += [*traffic_plots(panel), *accuracy_over_time_plots(panel)]
    return plots


def _panels(runs: Sequence[CellRun], cells: Sequence[Cell]) -> list[Panel]:
    """Return the panels that have finished runs."""
    panels = []
    for title, members in groupby(cells, key=_panel_title):
        runs_by_cell = {cell: [run for run in runs if run.cell == cell and run.results] for cell in members}
        runs_by_cell = {cell: cell_runs for cell, cell_runs in runs_by_cell.items() if cell_runs}
        if runs_by_cell:
            panels.append(Panel(title, runs_by_cell))
    return panels


def _panel_title(cell: Cell) -> str:
    width = f" {cell.width}" if cell.width else ""
    return f"{cell.network}{width}, batch {cell.batch_size}"


# ---- The figures of one panel.


def speed_plot(panel: Panel) -> Plot:
    """Return the figure of samples per second: bars of the medians, and a dot per run."""
    figure = _make_row_figure("samples/s")
    _add_bars(figure, panel.runs_by_cell, _samples_per_second, "%{x:,.0f} samples/s")
    _add_dots(figure, panel.runs, _samples_per_second, "%{x:,.0f} samples/s")
    figure.update_xaxes(rangemode="tozero")
    caption = "A bar is the median of the repeats, and a dot is one run."
    return Plot(f"Samples per second · {panel.title}", caption, figure, panel.height)


def accuracy_plot(panel: Panel) -> Plot:
    """Return the figure of test accuracy, a dot per run."""
    figure = _make_row_figure("test accuracy, %")
    _add_dots(figure, panel.runs, lambda run: 100 * run.results["test_accuracy"], "%{x:.2f} %")
    caption = "A dot is one run. The repeats of a cell differ in their seed."
    return Plot(f"Test accuracy · {panel.title}", caption, figure, panel.height)


def memory_plots(panel: Panel) -> list[Plot]:
    """Return the figure of the largest process's peak memory, where it is known: bars of the medians, a dot per run."""
    known = {cell: runs for cell, runs in panel.runs_by_cell.items() if all(map(largest_process_bytes, runs))}
    if not known:
        return []
    runs = [run for run in panel.runs if run.cell in known]
    unit, unit_bytes = byte_unit(max(map(largest_process_bytes, runs)))
    figure = _make_row_figure(f"peak memory of the largest process, {unit}")
    _add_bars(figure, known, lambda run: largest_process_bytes(run) / unit_bytes, f"%{{x:,.1f}} {unit}")
    _add_dots(figure, runs, lambda run: largest_process_bytes(run) / unit_bytes, f"%{{x:,.1f}} {unit}")
    figure.update_xaxes(rangemode="tozero")
    caption = "A bar is the median of the repeats, and a dot is one run."
    return [Plot(f"Peak memory · {panel.title}", caption, figure, panel.height)]


def traffic_plots(panel: Panel) -> list[Plot]:
    """Return the figure of the bytes sent per training step, on a logarithmic axis, if any cell sends some."""
    sending = {cell: runs for cell, runs in panel.runs_by_cell.items() if all(map(_traffic_bytes, runs))}
    if not sending:
        return []
    largest = max(_traffic_bytes_per_step(run) for run in panel.runs if run.cell in sending)
    unit, unit_bytes = byte_unit(largest)
    figure = _make_row_figure(f"traffic per step, {unit}")
    _add_bars(figure, sending, lambda run: _traffic_bytes_per_step(run) / unit_bytes, f"%{{x:,.4g}} {unit}")
    figure.update_xaxes(type="log", dtick=1, exponentformat="none")
    caption = "Bytes sent between processes and stored for other segments: median of the repeats, logarithmic axis."
    return [Plot(f"Traffic per step · {panel.title}", caption + _without_bars(panel, sending), figure, panel.height)]


def _without_bars(panel: Panel, sending: dict[Cell, list[CellRun]]) -> str:
    """Return the sentences that list the cells of `panel` without a bar in the figure of traffic."""
    unknown, silent = [], []
    for cell, runs in panel.runs_by_cell.items():
        if any(_traffic_bytes(run) is None for run in runs):
            unknown.append(_cell_label(cell))
        elif cell not in sending:
            silent.append(_cell_label(cell))
    sentences = f" Nothing is sent by: {', '.join(silent)}." if silent else ""
    return sentences + (f" Not counted, since it goes between GPUs: {', '.join(unknown)}." if unknown else "")


def accuracy_over_time_plots(panel: Panel) -> list[Plot]:
    """Return the figure of test accuracy against time, a line per run that recorded it, if any did."""
    figure = make_figure("seconds from the first step", "test accuracy, %")
    for index, runs in enumerate(panel.runs_by_cell.values()):
        for run in runs:
            if run.results["accuracy_curve"]:
                _add_accuracy_line(figure, run, index, in_legend=run is runs[0])
    figure.update_xaxes(rangemode="tozero")
    caption = "Accuracy of the whole network as it was at that time, a line per run."
    return [Plot(f"Test accuracy against time · {panel.title}", caption, figure, 480)] if figure.data else []


def _add_accuracy_line(figure: go.Figure, run: CellRun, index: int, *, in_legend: bool) -> None:
    """Add the line of a run of the panel's cell number `index`."""
    curve, label = run.results["accuracy_curve"], _cell_label(run.cell)
    figure.add_scatter(
        x=[point["seconds"] for point in curve],
        y=[100 * point["test_accuracy"] for point in curve],
        mode="lines+markers",
        line=line_style(index),
        marker_size=4,
        name=label,
        legendgroup=run.cell.name,
        showlegend=in_legend,
        hovertemplate=f"after %{{x:.1f}} s: %{{y:.2f}} %<extra>{label}, repeat {run.repeat}</extra>",
    )


# ---- What the figures share: rows, bars and dots.


def _make_row_figure(x_label: str) -> go.Figure:
    """Return an empty figure with a row per cell."""
    figure = make_figure(x_label, "", bargap=0.35, showlegend=False)
    set_row_axis(figure)
    return figure


def _add_bars(
    figure: go.Figure,
    runs_by_cell: dict[Cell, list[CellRun]],
    value_of: Callable[[CellRun], float],
    value_template: str,
) -> None:
    """Add a bar per cell: the median of its runs' values."""
    figure.add_bar(
        orientation="h",
        y=[_cell_label(cell) for cell in runs_by_cell],
        x=[median_or_none([value_of(run) for run in runs]) for runs in runs_by_cell.values()],
        marker_color=[_STRATEGY_COLOURS.get(cell.strategy, _OTHER_COLOUR) for cell in runs_by_cell],
        hovertemplate=f"%{{y}}: median {value_template}<extra></extra>",
    )


def _add_dots(
    figure: go.Figure, runs: Sequence[CellRun], value_of: Callable[[CellRun], float], value_template: str
) -> None:
    """Add a dot per run, in the row of its cell."""
    figure.add_scatter(
        y=[_cell_label(run.cell) for run in runs],
        x=[value_of(run) for run in runs],
        mode="markers",
        marker={"size": 7, "color": "#000000", "opacity": 0.6},
        customdata=[run.repeat for run in runs],
        hovertemplate=f"%{{y}}, repeat %{{customdata}}: {value_template}<extra></extra>",
    )


def _cell_label(cell: Cell) -> str:
    """Return what distinguishes a cell from the others of its panel, e.g. "gpipe, K = 2, 4 microbatches"."""
    segments = "" if cell.strategy == "end_to_end" else f", K = {cell.segments}"
    microbatches = f", {cell.microbatches} microbatches" if cell.microbatches else ""
    return escape(cell.strategy.replace("_", " ") + segments + microbatches)


def _samples_per_second(run: CellRun) -> float:
    return float(run.results["samples_per_second"])


def _traffic_bytes(run: CellRun) -> int | None:
    """Return the bytes sent over the whole training, or None if they were not counted."""
    traffic: int | None = run.results["traffic_bytes"]
    return traffic


def _traffic_bytes_per_step(run: CellRun) -> float:
    return float(run.results["traffic_bytes_per_step"])
