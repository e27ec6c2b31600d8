"""Speed of synthetic-label training against the conventional ways: table, plot, model of cost and projections.

    python experiments/claims/sil_speed/sil_speed.py

The folder --runs holds the runs. Those that have finished are not run again, so the script can be stopped and restarted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for the modules that claims share

from claims.output import add_bar_with_dots, save_figure, write_run_table
from claims.runs import make_parser, run_grid
from cost_model.cost_model import CostModel, compare_with_measured, fit, prediction_errors
from cost_model.projection import NOTES, TITLE, plot_projection, project, projection_plots
from cost_model.workload import ComparisonSetup

from partrain.cli.errors import errors_in_one_line
from partrain.comparison.summary import summarise
from partrain.comparison.table import CellRun, run_row
from partrain.partition.plan import PartitionSettings
from partrain.report.page import RunsPage, write_runs_page
from partrain.report.style import COLOURS
from partrain.report.tables import markdown_table, write_csv
from partrain.settings import RunSettings
from partrain.storage import checkpoint

HERE = Path(__file__).resolve().parent


class Panel(NamedTuple):
    """A width and a batch size, at which all strategies are measured."""

    width: int
    batch_size: int


# The images of the one epoch. With so many each training takes at least a second.
PANEL_IMAGES = {Panel(512, 64): 25600, Panel(512, 256): 61440, Panel(2048, 64): 2560, Panel(2048, 256): 7680}

# Overrides of cells that are measured once, for the model of cost. K is larger than the number of cores in most.
_FOUR_SEGMENTS = ["grid.segments=[4]", "grid.batch_sizes=[256]"]
_SIX_SEGMENTS = ["grid.segments=[6]", "grid.batch_sizes=[252]", "grid.microbatches=[6]"]
FITTED_ONCE = {
    "K = 4, width 512": [*_FOUR_SEGMENTS, "grid.widths=[512]", "data.limit_train=40960"],
    "K = 4, width 2048": [*_FOUR_SEGMENTS, "grid.widths=[2048]"],
}
HELD_OUT = {
    "K = 6, width 512": [*_SIX_SEGMENTS, "grid.widths=[512]", "data.limit_train=40320"],
    "K = 6, width 2048": [*_SIX_SEGMENTS, "grid.widths=[2048]"],
    "K = 2, width 1024": ["grid.segments=[2]", "grid.widths=[1024]", "grid.batch_sizes=[128]"],
}

TARGETS = {"data_parallel": 1.7, "fully_sharded": 1.7, "model_parallel": 1.7, "1f1b": 1.7, "end_to_end": 1.0}
"""How many times as fast as each strategy synthetic labels with K = 2 are to be."""


def main() -> None:
    """Do the runs that the options ask for, and write the tables, the plots and the page of projections."""
    options = make_parser(__doc__, HERE).parse_args()
    with errors_in_one_line():
        runs = run_panels(options)
        rows = list(chain.from_iterable(map(panel_rows, runs.values())))
        write_run_table(options.out, rows, runs[Panel(512, 64)])
        plot(rows, runs, options.out / "plot.png")

        fitted = {"K = 2": list(chain.from_iterable(runs.values()))}
        fitted |= run_once(options, FITTED_ONCE)
        model = write_model(options.out, fitted, run_once(options, HELD_OUT))
        write_projections(options, model)


# ---- The measurements.


def run_panels(options: argparse.Namespace) -> dict[Panel, list[CellRun]]:
    """Return the runs of every panel, doing those that have not finished."""
    runs = {}
    for panel, images in PANEL_IMAGES.items():
        width, batch_size = panel
        sizes = [f"grid.widths=[{width}]", f"grid.batch_sizes=[{batch_size}]", f"data.limit_train={images}"]
        runs[panel] = run_grid(HERE, options, f"w{width}b{batch_size}", sizes)
    return runs


def run_once(options: argparse.Namespace, groups: Mapping[str, list[str]]) -> dict[str, list[CellRun]]:
    """Return one run of every cell of each group, by the group's name. `groups` holds each group's own overrides."""
    once = ["grid.repeats=1", "grid.microbatches=[8]", "data.limit_train=7680"]
    folders = {name: name.replace(" ", "").replace(",", "-") for name in groups}
    return {name: run_grid(HERE, options, folders[name], [*once, *overrides]) for name, overrides in groups.items()}


def panel_rows(runs: Sequence[CellRun]) -> list[dict[str, Any]]:
    """Return a row per strategy with medians and the speedup of synthetic labels. A pipeline has its best row only."""
    cells = list(dict.fromkeys(run.cell for run in runs))
    summary = summarise(runs, cells, [])
    return [_table_row(row) for row in summary if not row["microbatches"] or row["best_microbatches"]]


def _table_row(summary_row: Mapping[str, Any]) -> dict[str, Any]:
    speedup, target = summary_row["synthetic_speedup_k2"], TARGETS.get(summary_row["strategy"])
    is_met = ""
    if target is not None:
        is_met = "yes" if speedup >= target else "NO"
    return {
        "width": summary_row["width"],
        "batch": summary_row["batch_size"],
        "strategy": summary_row["strategy"],
        "microbatches": summary_row["microbatches"],
        "runs": summary_row["runs"],
        "samples/s": round(summary_row["samples_per_second"]),
        "lowest": round(summary_row["samples_per_second_min"]),
        "highest": round(summary_row["samples_per_second_max"]),
        "synthetic is × faster": float(f"{speedup:.2f}"),
        "target": target,
        "met": is_met,
        "bytes per step": round(summary_row["traffic_bytes_per_step"]),
        "cores busy": float(f"{summary_row['utilization']:.2f}"),
    }


def plot(rows: list[dict[str, Any]], runs: Mapping[Panel, list[CellRun]], path: Path) -> None:
    """Write a plot of the samples/s of every run, with a panel per width and batch size."""
    figure = Figure(figsize=(11, 7))
    for axes, panel in zip(figure.subplots(2, 2).flatten(), PANEL_IMAGES, strict=True):
        panel_table = [row for row in rows if (row["width"], row["batch"]) == panel]
        _plot_panel(axes, panel_table, runs[panel])
        axes.set(title=f"width {panel.width}, batch {panel.batch_size}", xlabel="samples/s (dot: a run, bar: median)")
    save_figure(figure, path)


def _plot_panel(axes: Axes, rows: list[dict[str, Any]], runs: list[CellRun]) -> None:
    """Add a bar and dots for each row, the first on top."""
    for position, row in enumerate(reversed(rows)):
        speeds = [
            run.results["samples_per_second"]
            for run in runs
            if (run.cell.strategy, run.cell.microbatches) == (row["strategy"], row["microbatches"])
        ]
        colour = COLOURS[1] if row["strategy"] == "synthetic" else COLOURS[0]
        add_bar_with_dots(axes, position, speeds, colour)
    axes.set_yticks(range(len(rows)), [_row_label(row) for row in reversed(rows)])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="x", alpha=0.3)


def _row_label(row: Mapping[str, Any]) -> str:
    return f"{row['strategy']}, {row['microbatches']} microbatches" if row["microbatches"] else str(row["strategy"])


# ---- The model of cost.


def write_model(out: Path, fitted: Mapping[str, list[CellRun]], held_out: Mapping[str, list[CellRun]]) -> CostModel:
    """Fit the model of cost, and write cost_model.csv and cost_model.md.

    Args:
        out: The folder of the files.
        fitted: The runs to fit the model to, by the name of their group.
        held_out: The runs to check the model on, by the name of their group.

    Returns:
        The fitted model.
    """
    rows = {name: [run_row(run, []) for run in runs] for name, runs in {**fitted, **held_out}.items()}
    first_run = next(iter(fitted.values()))[0]
    shared = RunSettings(partition=PartitionSettings(balance="compute"))  # as in grid.yaml
    setup = ComparisonSetup(precision=first_run.results["train"]["precision"], shared=shared)
    model = fit(chain.from_iterable(rows[name] for name in fitted), setup)

    checked = {name: compare_with_measured(model, group_rows) for name, group_rows in rows.items()}
    named = [[{"cells": name} | row for row in group] for name, group in checked.items()]
    write_csv(out / "cost_model.csv", list(chain.from_iterable(named)))
    summary = [_model_row(name, group, is_fitted=name in fitted) for name, group in checked.items()]
    constants = [
        {"constant": name, "seconds": value, "standard error, factor": model.error_factors.get(name)}
        for name, value in asdict(model.constants).items()
    ]
    text = ["# Model of cost\n", markdown_table(summary), markdown_table(constants)]
    checkpoint.write_text(out / "cost_model.md", "\n".join(text))
    return model


def _model_row(name: str, checked: Sequence[Mapping[str, Any]], *, is_fitted: bool) -> dict[str, Any]:
    """Return the row of cost_model.md for one group of cells: its number of cells, and the model's errors on them."""
    group_errors = prediction_errors(checked)
    return {
        "cells": name,
        "": "fitted" if is_fitted else "held out",
        "number": len(checked),
        "median_error": f"{group_errors['median_error']:.0%}",
        "worst_error": f"{group_errors['worst_error']:.0%}",
    }


def write_projections(options: argparse.Namespace, model: CostModel) -> None:
    """Write the model's projections: projection.csv and projection.png, and a page beside the runs."""
    rows = project(model)
    write_csv(options.out / "projection.csv", rows)
    page = RunsPage(title=TITLE, rows=rows, plots=projection_plots(rows), lead=" ".join(NOTES))
    write_runs_page(options.runs, page)
    plot_projection(rows, options.out / "projection.png")


if __name__ == "__main__":
    main()
