"""Bytes that processes send one another, as the kernel counts them, by strategy, K and batch size: table and plot.

    python experiments/claims/sil_traffic/sil_traffic.py

Runs are kept in --runs; those that are finished are not done again, so it can be stopped and started.
"""

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure
from claims.runs import run_claim
from cost_model.workload import ComparisonSetup, traffic_bytes

from partrain.comparison.table import CellRun
from partrain.report.style import COLOURS

HERE = Path(__file__).resolve().parent

EPOCH = 96_993  # training images of the ByMerge files at hand, for a total that can be pictured
EPOCHS = 8


def table(runs: list[CellRun]) -> list[dict[str, Any]]:
    """A row per cell: bytes per step, measured and from first principles, and in a whole training."""
    setup = ComparisonSetup(precision=runs[0].results["train"]["precision"])
    return [
        {
            "width": run.cell.width,
            "batch": run.cell.batch_size,
            "K": run.cell.segments,
            "strategy": run.cell.strategy,
            "bytes per step": round(run.results["traffic_bytes_per_step"]),
            "from first principles": _expected(run, setup),
            f"GB in {EPOCHS} epochs of {EPOCH:,} images": float(f"{_whole_training(run):.3g}"),
        }
        for run in sorted(runs, key=lambda run: (run.cell.width or 0, run.cell.batch_size, run.cell.segments))
    ]


def _expected(run: CellRun, setup: ComparisonSetup) -> int | None:
    """None for the sequential schedule: it stores outputs once, whatever the number of steps."""
    if run.cell.strategy == "sequential":
        return None
    workload = setup.workload(run.cell)
    return round(traffic_bytes(workload, setup.system))


def _whole_training(run: CellRun) -> float:
    """GB: per step for what is sent in every step; per image, once, for outputs that are stored."""
    results = run.results
    if run.cell.strategy == "sequential":
        return float(results["traffic_bytes"]) / results["data"]["train_images"] * EPOCH / 1e9
    return float(results["traffic_bytes_per_step"]) * EPOCHS * (EPOCH // run.cell.batch_size) / 1e9


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """GB in a whole training, a panel per width and batch size, a bar per K."""
    total = next(name for name in rows[0] if name.startswith("GB in"))
    panels = list(dict.fromkeys((row["width"], row["batch"]) for row in rows))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "end_to_end"))
    counts = sorted({row["K"] for row in rows if row["K"] > 1})
    figure = Figure(figsize=(5.5 * len(panels), 4))
    for axes, (width, batch) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, count in enumerate(counts):
            found = {r["strategy"]: r[total] for r in rows if (r["width"], r["batch"], r["K"]) == (width, batch, count)}
            places = [place + 0.4 * number - 0.2 for place in range(len(strategies))]
            bars = axes.bar(places, [found[s] for s in strategies], 0.38, color=COLOURS[number], label=f"K = {count}")
            axes.bar_label(bars, [f"{found[s]:.3g}" for s in strategies], fontsize=7)
        axes.set(title=f"width {width}, batch {batch}", yscale="symlog", ylabel=total)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(0, 1e5)
        axes.set_xticks(range(len(strategies)), strategies, rotation=30, ha="right", fontsize=8)
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_claim(__doc__, HERE, table, plot)
