"""FLOPs and seconds to the same accuracy, synthetic labels against the conventional ways: table and plot.

    python experiments/claims/sil_compute/sil_compute.py --root <folder with EMNIST/raw>

Each strategy trains for several numbers of epochs. Each number is a training of its own with its own learning-rate
schedule. What counts is the cheapest training that reaches end to end's accuracy less a margin. The folder --runs holds
the runs. Those that have finished are not run again, so the script can be stopped and restarted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for the modules that claims share

from claims.output import save_figure, write_run_table
from claims.runs import make_parser, run_grid

from partrain.cli.errors import errors_in_one_line
from partrain.comparison.table import CellRun
from partrain.networks import NETWORKS, Chain
from partrain.partition.cost import training_flops
from partrain.report.style import COLOURS

HERE = Path(__file__).resolve().parent

IMAGE_SHAPE = (1, 28, 28)
NUM_CLASSES = 47
MARGIN = 0.3
"""How far below the reference's accuracy a training may be to count, in percentage points."""


class Case(NamedTuple):
    """A training that is tried: a strategy with K segments, for a number of epochs."""

    strategy: str
    segments: int
    epochs: int


def _cases(strategy: str, segments: int, numbers_of_epochs: Sequence[int]) -> list[Case]:
    return [Case(strategy, segments, epochs) for epochs in numbers_of_epochs]


CASES = [
    *_cases("end_to_end", 1, [4, 5, 6, 8]),
    *_cases("data_parallel", 2, [5, 6]),
    *_cases("1f1b", 2, [5, 6]),
    *_cases("decoupled", 2, [5, 6]),
    *_cases("synthetic", 2, [4, 5, 6]),
    *_cases("synthetic", 3, [6, 8]),
    *_cases("sequential", 3, [5, 6]),
    *_cases("synthetic", 6, [6, 8]),
]
REFERENCE = Case("end_to_end", 1, 8)
"""The training whose accuracy, less the margin, the others are to reach."""


def main() -> None:
    """Do the runs that the options ask for, and write the table and the plot."""
    options = make_parser(__doc__, HERE).parse_args()
    with errors_in_one_line():
        runs_by_case = run_cases(options)
        rows, accuracy_to_reach = table_rows(runs_by_case)
        baseline = next(row for row in rows if row["strategy"] == "end_to_end" and row["reaches it"] == "cheapest")
        note = (
            f"To reach: {accuracy_to_reach:.2f} %, {MARGIN} points below end to end with {REFERENCE.epochs} epochs. End "
            f"to end's FLOPs and seconds are those of its {baseline['epochs']} epochs, the fewest that reach it."
        )
        write_run_table(options.out, rows, list(chain.from_iterable(runs_by_case.values())), [note])
        plot(rows, accuracy_to_reach, options.out / "plot.png")


def run_cases(options: argparse.Namespace) -> dict[Case, list[CellRun]]:
    """Return the runs of every case, doing those that have not finished."""
    return {case: run_grid(HERE, options, *_folder_and_overrides(case)) for case in CASES}


def _folder_and_overrides(case: Case) -> tuple[str, list[str]]:
    folder = f"{case.strategy}-k{case.segments}-e{case.epochs}"
    strategies, segments = f"grid.strategies=[{case.strategy}]", f"grid.segments=[{case.segments}]"
    return folder, [strategies, segments, f"train.epochs={case.epochs}"]


# ---- The table.


def table_rows(runs_by_case: Mapping[Case, list[CellRun]]) -> tuple[list[dict[str, Any]], float]:
    """Return a row per case, and the accuracy to reach in per cent."""
    accuracy_to_reach = _mean_accuracy(runs_by_case[REFERENCE]) - MARGIN
    cheapest = _cheapest_cases(runs_by_case, accuracy_to_reach)
    baseline = runs_by_case[next(case for case in cheapest if case.strategy == "end_to_end")]
    baseline_flops, baseline_seconds = run_flops(baseline[0]), _median_seconds(baseline)
    rows = []
    for case, runs in runs_by_case.items():
        accuracy, flops, seconds = _mean_accuracy(runs), run_flops(runs[0]), _median_seconds(runs)
        reaches_it = "yes" if accuracy >= accuracy_to_reach else "no"
        rows.append(
            {
                "strategy": case.strategy,
                "K": case.segments,
                "epochs": case.epochs,
                "test accuracy, %": float(f"{accuracy:.2f}"),
                "reaches it": "cheapest" if case in cheapest else reaches_it,
                "TFLOP": float(f"{flops / 1e12:.3g}"),
                "FLOPs, of end to end's": float(f"{flops / baseline_flops:.2f}"),
                "seconds": float(f"{seconds:.1f}"),
                "seconds, of end to end's": float(f"{seconds / baseline_seconds:.2f}"),
            }
        )
    return rows, accuracy_to_reach


def _cheapest_cases(runs_by_case: Mapping[Case, list[CellRun]], accuracy_to_reach: float) -> set[Case]:
    """Return, for each strategy and K, the case with the fewest epochs that reaches the accuracy, if one does."""
    reaching = [case for case, runs in runs_by_case.items() if _mean_accuracy(runs) >= accuracy_to_reach]
    cheapest: dict[tuple[str, int], Case] = {}
    for case in sorted(reaching, key=lambda case: case.epochs):
        cheapest.setdefault((case.strategy, case.segments), case)
    return set(cheapest.values())


def _mean_accuracy(runs: Sequence[CellRun]) -> float:
    """Return the mean test accuracy in per cent."""
    return 100 * mean(run.results["test_accuracy"] for run in runs)


def _median_seconds(runs: Sequence[CellRun]) -> float:
    return median(run.results["step_seconds"] for run in runs)


# ---- FLOPs.


def run_flops(run: CellRun) -> float:
    """Return the FLOPs of all forward and backward passes of a run, of all processes together."""
    results, width = run.results, run.cell.width or 0
    images_per_epoch = results["steps"] // results["train"]["epochs"] * run.cell.batch_size
    chain = Chain.build(NETWORKS.from_dict(results["network"]), IMAGE_SHAPE, NUM_CLASSES)
    if run.cell.strategy in ("synthetic", "sequential"):
        return float(_synthetic_flops_per_image(run, chain, width) * images_per_epoch)
    flops_per_image = training_flops(chain, None, None, IMAGE_SHAPE)
    if run.cell.strategy == "decoupled":
        # Every segment but the last has a classifier of its own: one product forward, and two backward.
        flops_per_image += (run.cell.segments - 1) * 3 * _classifier_flops(width)
    return float(flops_per_image * images_per_epoch * results["train"]["epochs"])


def _synthetic_flops_per_image(run: CellRun, chain: Chain, width: int) -> int:
    """Return the FLOPs that all segments of a run spend on an image of an epoch, over all of their epochs."""
    edges = [chain.cut_named(name) for name in (None, *run.results["cuts"], None)]
    total = 0
    for segment, (start, stop) in zip(run.results["segments"], pairwise(edges), strict=True):
        flops = training_flops(chain, start, stop, IMAGE_SHAPE if start is None else (width,))
        # The output is multiplied with the codes for the scores, and once more for their gradient.
        products = 0 if stop is None else 2
        # Synthetic inputs are drawn by one more product with the codes.
        draws_inputs = start is not None and (run.cell.strategy == "synthetic" or stop is None)
        products += 1 if draws_inputs else 0
        total += (flops + products * _classifier_flops(width)) * segment["epochs"]
    return total


def _classifier_flops(width: int) -> int:
    """Return the FLOPs per image of one product between features [width] and a matrix [classes, width]."""
    return 2 * width * NUM_CLASSES


# ---- The plot.


def plot(rows: list[dict[str, Any]], accuracy_to_reach: float, path: Path) -> None:
    """Write a plot of accuracy against seconds and against FLOPs, a line per strategy and K over its epochs."""
    figure = Figure(figsize=(11, 4.5))
    for axes, quantity in zip(figure.subplots(1, 2, sharey=True), ("seconds", "TFLOP"), strict=True):
        _plot_quantity(axes, rows, quantity)
        axes.axhline(accuracy_to_reach, color="grey", linestyle=":", label=f"to reach: {accuracy_to_reach:.2f} %")
        axes.set(xlabel=quantity)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.axes[0].legend(fontsize=7)
    save_figure(figure, path)


def _plot_quantity(axes: Axes, rows: list[dict[str, Any]], quantity: str) -> None:
    """Add a line per strategy and K, with accuracy against the column `quantity`."""
    lines = list(dict.fromkeys((row["strategy"], row["K"]) for row in rows))
    for number, (strategy, segments) in enumerate(lines):
        line_rows = [row for row in rows if (row["strategy"], row["K"]) == (strategy, segments)]
        axes.plot(
            [row[quantity] for row in line_rows],
            [row["test accuracy, %"] for row in line_rows],
            marker="os^"[number % 3],
            color=COLOURS[number % len(COLOURS)],
            label=strategy if segments == 1 else f"{strategy}, K = {segments}",
        )


if __name__ == "__main__":
    main()
