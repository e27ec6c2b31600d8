"""Peak memory per device of synthetic-label training against the conventional ways, by K and width: table and plot.

    python experiments/claims/sil_memory/sil_memory.py

Runs are kept in --runs; those that are finished are not done again, so it can be stopped and started.
"""

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure
from claims.runs import run_claim

from partrain.comparison.summary import largest_process_bytes
from partrain.comparison.table import CellRun
from partrain.report.style import COLOURS

HERE = Path(__file__).resolve().parent


def table(runs: list[CellRun]) -> list[dict[str, Any]]:
    """A row per cell: the largest process's peak, in MiB and against end to end's, and what it is made of."""
    whole = {run.cell.width: run for run in runs if run.cell.strategy == "end_to_end"}
    return [
        {
            "strategy": run.cell.strategy,
            "width": run.cell.width,
            "K": run.cell.segments,
            "largest process, MiB": round(largest_process_bytes(run) / 2**20),
            "of end to end": float(f"{largest_process_bytes(run) / largest_process_bytes(whole[run.cell.width]):.2f}"),
            "1 / K": float(f"{1 / run.cell.segments:.2f}"),
            "all processes, MiB": round(sum(_processes(run, "peak_memory_bytes")) / 2**20),
            "weights, MiB": float(f"{max(_processes(run, 'parameter_bytes')) / 2**20:.1f}"),
            "optimiser, MiB": float(f"{max(_processes(run, 'optimizer_state_bytes')) / 2**20:.1f}"),
        }
        for run in sorted(runs, key=lambda run: (run.cell.width or 0, run.cell.segments))
    ]


def _processes(run: CellRun, name: str) -> list[int]:
    return [process[name] for process in run.results["segments"]]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The largest process's share of end to end's memory, against K, a panel per width."""
    widths = sorted({row["width"] for row in rows})
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "end_to_end"))
    figure = Figure(figsize=(3.2 * len(widths), 3.6))
    for axes, width in zip(figure.subplots(1, len(widths), sharey=True, squeeze=False)[0], widths, strict=True):
        for colour, strategy in zip(COLOURS, strategies, strict=False):
            shown = [row for row in rows if (row["width"], row["strategy"]) == (width, strategy)]
            axes.plot([r["K"] for r in shown], [r["of end to end"] for r in shown], "o-", color=colour, label=strategy)
        counts = sorted({row["K"] for row in rows if row["K"] > 1})
        axes.plot(counts, [1 / count for count in counts], ":", color="grey", label="1 / K")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(title=f"width {width}", xlabel="processes K", xticks=counts, yscale="log")
        axes.grid(alpha=0.3, which="both")
        if width == widths[0]:
            axes.set_ylabel("peak memory of the largest process,\nof end to end's")
    axes.legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    run_claim(__doc__, HERE, table, plot)
