"""Speed of synthetic-label training against what one would do instead: table, plot, the model of cost, projections.

    python experiments/claims/sil_speed/sil_speed.py

Runs are kept in --runs; those that are finished are not done again, so it can be stopped and started.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure, write_run_table
from claims.runs import make_parser, run_grid
from cost_model.cost_model import CostModel, compare_with_measured, fit, prediction_errors
from cost_model.projection import NOTES, TITLE, plot_projection, project, projection_plots
from cost_model.workload import ComparisonSetup

from partrain.cli.config import clear_errors
from partrain.comparison.summary import summarise
from partrain.comparison.table import CellRun, run_row
from partrain.partition.plan import PartitionSettings
from partrain.report.page import RunsPage, write_runs_page
from partrain.report.style import COLOURS
from partrain.report.tables import markdown_table, write_csv
from partrain.settings import RunSettings
from partrain.storage import checkpoint

HERE = Path(__file__).resolve().parent

# width, batch size: images of the one epoch, for a second of training at least
PANELS = {(512, 64): 25600, (512, 256): 61440, (2048, 64): 2560, (2048, 256): 7680}
# measured once, for the model of cost: more processes than cores, to fit, and yet more, to check it on
FOUR = ["grid.segments=[4]", "grid.batch_sizes=[256]"]
SIX = ["grid.segments=[6]", "grid.batch_sizes=[252]", "grid.microbatches=[6]"]
FITTED_TOO = {
    "K = 4, width 512": [*FOUR, "grid.widths=[512]", "data.limit_train=40960"],
    "K = 4, width 2048": [*FOUR, "grid.widths=[2048]"],
}
HELD_OUT = {
    "K = 6, width 512": [*SIX, "grid.widths=[512]", "data.limit_train=40320"],
    "K = 6, width 2048": [*SIX, "grid.widths=[2048]"],
    "K = 2, width 1024": ["grid.segments=[2]", "grid.widths=[1024]", "grid.batch_sizes=[128]"],
}
TARGETS = {"data_parallel": 1.7, "fully_sharded": 1.7, "model_parallel": 1.7, "1f1b": 1.7, "end_to_end": 1.0}


def panel_rows(runs: list[CellRun]) -> list[dict[str, Any]]:
    """A row per strategy, a pipeline's with its best microbatch count: medians, and how much faster synthetic is."""
    cells = list(dict.fromkeys(run.cell for run in runs))
    rows = []
    for each in summarise(runs, cells, []):
        if each["microbatches"] and not each["best_microbatches"]:
            continue
        speedup, target = each["synthetic_speedup_k2"], TARGETS.get(each["strategy"])
        rows.append(
            {
                "width": each["width"],
                "batch": each["batch_size"],
                "strategy": each["strategy"],
                "microbatches": each["microbatches"],
                "runs": each["runs"],
                "samples/s": round(each["samples_per_second"]),
                "lowest": round(each["samples_per_second_min"]),
                "highest": round(each["samples_per_second_max"]),
                "synthetic is × faster": float(f"{speedup:.2f}"),
                "target": target,
                "met": "" if target is None else "yes" if speedup >= target else "NO",
                "bytes per step": round(each["traffic_bytes_per_step"]),
                "cores busy": float(f"{each['utilization']:.2f}"),
            }
        )
    return rows


def plot(rows: list[dict[str, Any]], runs: dict[tuple[int, int], list[CellRun]], path: Path) -> None:
    """Samples/s of every run, a panel per width and batch size."""
    figure = Figure(figsize=(11, 7))
    for axes, (width, batch) in zip(figure.subplots(2, 2).flatten(), PANELS, strict=True):
        shown = [each for each in rows if (each["width"], each["batch"]) == (width, batch)]
        for place, each in enumerate(reversed(shown)):
            values = [
                run.results["samples_per_second"]
                for run in runs[width, batch]
                if (run.cell.strategy, run.cell.microbatches) == (each["strategy"], each["microbatches"])
            ]
            colour = COLOURS[1] if each["strategy"] == "synthetic" else COLOURS[0]
            axes.barh(place, median(values), color=colour, alpha=0.5, height=0.6)
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=4)
        axes.set_yticks(range(len(shown)), [_name(each) for each in reversed(shown)])
        axes.set(title=f"width {width}, batch {batch}", xlabel="samples/s (dot: a run, bar: median)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def _name(row: dict[str, Any]) -> str:
    return f"{row['strategy']}, {row['microbatches']} microbatches" if row["microbatches"] else str(row["strategy"])


def runs_once(given: argparse.Namespace, groups: dict[str, list[str]]) -> dict[str, list[CellRun]]:
    """The runs of each of `groups`, which are named by what is particular to their overrides."""
    once = ["grid.repeats=1", "grid.microbatches=[8]", "data.limit_train=7680"]
    folders = {name: name.replace(" ", "").replace(",", "-") for name in groups}
    return {name: run_grid(HERE, given, folders[name], [*once, *extra]) for name, extra in groups.items()}


def write_model(out: Path, fitted: dict[str, list[CellRun]], held_out: dict[str, list[CellRun]]) -> CostModel:
    """cost_model.md and .csv: the constants, and predicted over measured of fitted and of held-out cells."""
    first = next(iter(fitted.values()))[0]
    shared = RunSettings(partition=PartitionSettings(balance="compute"))  # as in grid.yaml
    setup = ComparisonSetup(precision=first.results["train"]["precision"], shared=shared)
    model = fit([run_row(run, []) for runs in fitted.values() for run in runs], setup)
    checked = {
        name: compare_with_measured(model, [run_row(run, []) for run in runs])
        for name, runs in (fitted | held_out).items()
    }
    write_csv(out / "cost_model.csv", [{"cells": name} | each for name, found in checked.items() for each in found])
    summary = [
        {"cells": name, "": "fitted" if name in fitted else "held out"}
        | {"number": len(found)}
        | {key: f"{prediction_errors(found)[key]:.0%}" for key in ("median_error", "worst_error")}
        for name, found in checked.items()
    ]
    constants = [
        {"constant": name, "seconds": value, "standard error, factor": model.error_factors.get(name)}
        for name, value in asdict(model.constants).items()
    ]
    text = ["# Model of cost\n", markdown_table(summary), markdown_table(constants)]
    checkpoint.write_text(out / "cost_model.md", "\n".join(text))
    return model


def main() -> None:
    given = make_parser(__doc__, HERE).parse_args()
    runs = {}
    with clear_errors():
        for (width, batch), images in PANELS.items():
            sizes = [f"grid.widths=[{width}]", f"grid.batch_sizes=[{batch}]", f"data.limit_train={images}"]
            runs[width, batch] = run_grid(HERE, given, f"w{width}b{batch}", sizes)
        rows = [each for panel in runs.values() for each in panel_rows(panel)]
        write_run_table(given.out, rows, runs[512, 64])
        plot(rows, runs, given.out / "plot.png")
        measured = {"K = 2": [run for panel in runs.values() for run in panel]} | runs_once(given, FITTED_TOO)
        model = write_model(given.out, measured, runs_once(given, HELD_OUT))
        projected = project(model)
        write_csv(given.out / "projection.csv", projected)
        page = RunsPage(title=TITLE, rows=projected, plots=projection_plots(projected), lead=" ".join(NOTES))
        write_runs_page(given.runs, page)
        plot_projection(projected, given.out / "projection.png")


if __name__ == "__main__":
    main()
