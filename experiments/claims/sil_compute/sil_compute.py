"""FLOPs and seconds to the same accuracy, synthetic labels against the conventional ways: table and plot.

    python experiments/claims/sil_compute/sil_compute.py --root <folder with EMNIST/raw>

Every way is trained for several numbers of epochs, each a training of its own with its own learning-rate schedule; the
cheapest that reaches end to end's accuracy less a margin is what counts. Runs are kept in --runs; those that are
finished are not done again, so it can be stopped and started.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure, write_run_table
from claims.runs import make_parser, run_grid

from partrain.cli.config import clear_errors
from partrain.comparison.table import CellRun
from partrain.networks import Chain, network_settings_from_dict
from partrain.partition.cost import training_flops
from partrain.report.style import COLOURS

HERE = Path(__file__).resolve().parent

# strategy, K, and the numbers of epochs that are tried
TRIED: list[tuple[str, int, list[int]]] = [
    ("end_to_end", 1, [4, 5, 6, 8]),
    ("data_parallel", 2, [5, 6]),
    ("1f1b", 2, [5, 6]),
    ("decoupled", 2, [5, 6]),
    ("synthetic", 2, [4, 5, 6]),
    ("synthetic", 3, [6, 8]),
    ("sequential", 3, [5, 6]),
    ("synthetic", 6, [6, 8]),
]
MARGIN = 0.3  # points
IMAGE = (1, 28, 28)
REFERENCE = ("end_to_end", 1, 8)

Case = tuple[str, int, int]


def measured(given: argparse.Namespace) -> dict[Case, list[CellRun]]:
    """The runs of every case: strategy, K, epochs."""
    return {
        (strategy, count, epochs): run_grid(
            HERE,
            given,
            f"{strategy}-k{count}-e{epochs}",
            [f"grid.strategies=[{strategy}]", f"grid.segments=[{count}]", f"train.epochs={epochs}"],
        )
        for strategy, count, numbers in TRIED
        for epochs in numbers
    }


def flops(run: CellRun) -> float:
    """Of all that the training computes in forward and backward passes, all processes together."""
    results = run.results
    classes, width = 47, run.cell.width or 0
    images = results["steps"] // results["train"]["epochs"] * run.cell.batch_size  # of an epoch
    chain = Chain.build(network_settings_from_dict(results["network"]), IMAGE, classes)
    if run.cell.strategy not in ("synthetic", "sequential"):
        total = training_flops(chain, None, None, IMAGE)
        if run.cell.strategy == "decoupled":  # the left segments' own classifiers: forward, and two products backward
            total += (run.cell.segments - 1) * 3 * 2 * width * classes
        return float(total * images * results["train"]["epochs"])
    cuts = {cut.name: cut for cut in chain.cuts}
    edges = [None, *(cuts[name] for name in results["cuts"]), None]
    total = 0
    for segment, (start, stop) in zip(results["segments"], pairwise(edges), strict=True):
        each = training_flops(chain, start, stop, IMAGE if start is None else (width,))
        compared = 0 if stop is None else 2  # products with the codes: scores, and their gradient
        drawn = 1 if start is not None and (run.cell.strategy == "synthetic" or stop is None) else 0  # samples
        total += (each + (compared + drawn) * 2 * width * classes) * images * segment["epochs"]
    return float(total)


def table(found: dict[Case, list[CellRun]]) -> tuple[list[dict[str, Any]], float]:
    """A row per case, and the accuracy to reach, per cent."""
    bar = _accuracy(found[REFERENCE]) - MARGIN
    reaching = {case: _accuracy(runs) >= bar for case, runs in found.items()}
    least = {
        (strategy, count): min((e for s, k, e in found if (s, k) == (strategy, count) and reaching[s, k, e]), default=0)
        for strategy, count, _ in TRIED
    }
    fair = found["end_to_end", 1, least["end_to_end", 1]]
    rows = []
    for (strategy, count, epochs), runs in found.items():
        rows.append(
            {
                "strategy": strategy,
                "K": count,
                "epochs": epochs,
                "test accuracy, %": float(f"{_accuracy(runs):.2f}"),
                "reaches it": _reaches(reaching[strategy, count, epochs], epochs == least[strategy, count]),
                "TFLOP": float(f"{flops(runs[0]) / 1e12:.3g}"),
                "FLOPs, of end to end's": float(f"{flops(runs[0]) / flops(fair[0]):.2f}"),
                "seconds": float(f"{_seconds(runs):.1f}"),
                "seconds, of end to end's": float(f"{_seconds(runs) / _seconds(fair):.2f}"),
            }
        )
    return rows, bar


def _reaches(yes: bool, cheapest: bool) -> str:
    return "cheapest" if cheapest else "yes" if yes else "no"


def _accuracy(runs: Sequence[CellRun]) -> float:
    return 100 * mean(run.results["test_accuracy"] for run in runs)


def _seconds(runs: Sequence[CellRun]) -> float:
    return median(run.results["step_seconds"] for run in runs)


def plot(rows: list[dict[str, Any]], bar: float, path: Path) -> None:
    """Accuracy against seconds and against FLOPs, a line per strategy and K over its numbers of epochs."""
    figure = Figure(figsize=(11, 4.5))
    lines = list(dict.fromkeys((row["strategy"], row["K"]) for row in rows))
    for axes, quantity in zip(figure.subplots(1, 2, sharey=True), ("seconds", "TFLOP"), strict=True):
        for number, (strategy, count) in enumerate(lines):
            shown = [row for row in rows if (row["strategy"], row["K"]) == (strategy, count)]
            axes.plot(
                [row[quantity] for row in shown],
                [row["test accuracy, %"] for row in shown],
                marker="os^"[number % 3],
                color=COLOURS[number % len(COLOURS)],
                label=strategy if count == 1 else f"{strategy}, K = {count}",
            )
        axes.axhline(bar, color="grey", linestyle=":", label=f"to reach: {bar:.2f} %")
        axes.set(xlabel=quantity)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.axes[0].legend(fontsize=7)
    save_figure(figure, path)


def main() -> None:
    given = make_parser(__doc__, HERE).parse_args()
    with clear_errors():
        found = measured(given)
        rows, bar = table(found)
        fair = next(row for row in rows if row["strategy"] == "end_to_end" and row["reaches it"] == "cheapest")
        note = (
            f"To reach: {bar:.2f} %, {MARGIN} points below end to end with {REFERENCE[2]} epochs. End to end's FLOPs and "
            f"seconds are those of its {fair['epochs']} epochs, the fewest that reach it."
        )
        runs = [run for each in found.values() for run in each]
        write_run_table(given.out, rows, runs, [note])
        plot(rows, bar, given.out / "plot.png")


if __name__ == "__main__":
    main()
