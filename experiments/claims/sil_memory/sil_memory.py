"""Peak memory per device of synthetic-label training against the conventional ways, by K and width: table and plot.

    python experiments/claims/sil_memory/sil_memory.py

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

from partrain.comparison.summary import largest_process_bytes
from partrain.comparison.table import CellRun
from partrain.report.style import COLOURS

HERE = Path(__file__).resolve().parent


def table_rows(runs: list[CellRun]) -> list[dict[str, Any]]:
    """Return a row per cell: the largest process's peak, in MiB and against end to end's, and what it consists of."""
    end_to_end_bytes = {run.cell.width: largest_process_bytes(run) for run in runs if run.cell.strategy == "end_to_end"}
    return [
        {
            "strategy": run.cell.strategy,
            "width": run.cell.width,
            "K": run.cell.segments,
            "largest process, MiB": round(largest_process_bytes(run) / 2**20),
            "of end to end": float(f"{largest_process_bytes(run) / end_to_end_bytes[run.cell.width]:.2f}"),
            "1 / K": float(f"{1 / run.cell.segments:.2f}"),
            "all processes, MiB": round(sum(_process_values(run, "peak_memory_bytes")) / 2**20),
            "weights, MiB": float(f"{max(_process_values(run, 'parameter_bytes')) / 2**20:.1f}"),
            "optimiser, MiB": float(f"{max(_process_values(run, 'optimizer_state_bytes')) / 2**20:.1f}"),
        }
        for run in sorted(runs, key=lambda run: (run.cell.width or 0, run.cell.segments))
    ]


def _process_values(run: CellRun, key: str) -> list[int]:
    """Return the value of `key` in each process's results."""
    return [process[key] for process in run.results["segments"]]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a plot of the largest process's memory, as a fraction of end to end's, against K, a panel per width."""
    widths = sorted({row["width"] for row in rows})
    figure = Figure(figsize=(3.2 * len(widths), 3.6))
    all_axes = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    for axes, width in zip(all_axes, widths, strict=True):
        _plot_width(axes, rows, width)
    all_axes[0].set_ylabel("peak memory of the largest process,\nas a fraction of end to end's")
    all_axes[-1].legend(fontsize=7)
    save_figure(figure, path)


def _plot_width(axes: Axes, rows: list[dict[str, Any]], width: int) -> None:
    """Add a line per strategy of one width, and 1 / K for comparison."""
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "end_to_end"))
    for colour, strategy in zip(COLOURS, strategies, strict=False):
        line = [row for row in rows if (row["width"], row["strategy"]) == (width, strategy)]
        fractions = [row["of end to end"] for row in line]
        axes.plot([row["K"] for row in line], fractions, "o-", color=colour, label=strategy)
    segment_counts = sorted({row["K"] for row in rows if row["K"] > 1})
    axes.plot(segment_counts, [1 / count for count in segment_counts], ":", color="grey", label="1 / K")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(title=f"width {width}", xlabel="processes K", xticks=segment_counts, yscale="log")
    axes.grid(alpha=0.3, which="both")


if __name__ == "__main__":
    run_claim(__doc__, HERE, table_rows, plot)
