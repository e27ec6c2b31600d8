"""Bytes that processes send one another, as the kernel counts them, by strategy, K and batch size: table and plot.

    python experiments/claims/sil_traffic/sil_traffic.py

The folder --runs holds the runs. Those that have finished are not run again, so the script can be stopped and restarted.
"""

import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for the modules that claims share

from claims.output import save_figure
from claims.runs import run_claim
from cost_model.workload import ComparisonSetup, traffic_bytes

from partrain.comparison.table import CellRun
from partrain.report.style import COLOURS

HERE = Path(__file__).resolve().parent

# A whole training, for a total that one can picture: the training images of the ByMerge files at hand, and epochs.
EPOCH_IMAGES = 96_993
EPOCHS = 8
TOTAL_COLUMN = f"GB in {EPOCHS} epochs of {EPOCH_IMAGES:,} images"


def table_rows(runs: list[CellRun]) -> list[dict[str, Any]]:
    """Return a row per cell: bytes per step, measured and from first principles, and bytes in a whole training."""
    setup = ComparisonSetup(precision=runs[0].results["train"]["precision"])
    return [
        {
            "width": run.cell.width,
            "batch": run.cell.batch_size,
            "K": run.cell.segments,
            "strategy": run.cell.strategy,
            "bytes per step": round(run.results["traffic_bytes_per_step"]),
            "from first principles": _expected_bytes_per_step(run, setup),
            TOTAL_COLUMN: float(f"{_whole_training_gigabytes(run):.3g}"),
        }
        for run in sorted(runs, key=lambda run: (run.cell.width or 0, run.cell.batch_size, run.cell.segments))
    ]


def _expected_bytes_per_step(run: CellRun, setup: ComparisonSetup) -> int | None:
    """Return the bytes that a step sends from first principles.

    The sequential schedule has None: it stores outputs once, whatever the number of steps.
    """
    if run.cell.strategy == "sequential":
        return None
    workload = setup.workload(run.cell)
    return round(traffic_bytes(workload, setup.system))


def _whole_training_gigabytes(run: CellRun) -> float:
    """Return the traffic of a whole training, in GB, scaled from the run's.

    Strategies that send in every step are scaled by steps. Outputs that are stored once are scaled by images.
    """
    results = run.results
    if run.cell.strategy == "sequential":
        return float(results["traffic_bytes"]) / results["data"]["train_images"] * EPOCH_IMAGES / 1e9
    return float(results["traffic_bytes_per_step"]) * EPOCHS * (EPOCH_IMAGES // run.cell.batch_size) / 1e9


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a plot of the GB in a whole training, with a panel per width and batch size and a bar per K."""
    panels = list(dict.fromkeys((row["width"], row["batch"]) for row in rows))
    figure = Figure(figsize=(5.5 * len(panels), 4))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _plot_panel(axes, rows, panel)
    all_axes[-1].legend()
    save_figure(figure, path)


def _plot_panel(axes: Axes, rows: list[dict[str, Any]], panel: tuple[int, int]) -> None:
    """Add a bar per strategy and K of one width and batch size."""
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "end_to_end"))
    segment_counts = sorted({row["K"] for row in rows if row["K"] > 1})
    for number, segments in enumerate(segment_counts):
        totals = {
            row["strategy"]: row[TOTAL_COLUMN]
            for row in rows
            if (row["width"], row["batch"], row["K"]) == (*panel, segments)
        }
        positions = [position + 0.4 * number - 0.2 for position in range(len(strategies))]
        heights = [totals[strategy] for strategy in strategies]
        bars = axes.bar(positions, heights, 0.38, color=COLOURS[number], label=f"K = {segments}")
        axes.bar_label(bars, [f"{height:.3g}" for height in heights], fontsize=7)
    width, batch_size = panel
    axes.set(title=f"width {width}, batch {batch_size}", yscale="symlog", ylabel=TOTAL_COLUMN)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(0, 1e5)
    axes.set_xticks(range(len(strategies)), strategies, rotation=30, ha="right", fontsize=8)


if __name__ == "__main__":
    run_claim(__doc__, HERE, table_rows, plot)
