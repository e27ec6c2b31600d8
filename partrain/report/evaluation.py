"""An evaluation's files, and what the console shows of it."""

from pathlib import Path

from rich.table import Table

from partrain.console import console
from partrain.report.console_tables import data_label
from partrain.report.plots import plot_confusion, plot_curves, plot_per_class
from partrain.stitching.evaluate import Evaluation
from partrain.storage.run_folder import CONFUSION_PLOT, CURVES_PLOT, EVALUATION, METRICS, PER_CLASS_PLOT, SEGMENTS


def write_evaluation(result: Evaluation, run: Path, folder: Path) -> None:
    """Write evaluation.json, confusion.png, per_class.png and the run's curves.png into `folder`."""
    result.write(folder / EVALUATION)
    plot_confusion(result, folder / CONFUSION_PLOT)
    plot_per_class(result, folder / PER_CLASS_PLOT)
    plot_curves(sorted((run / SEGMENTS).glob(f"*/{METRICS}")), folder / CURVES_PLOT)


def show_evaluation(result: Evaluation, folder: Path) -> None:
    """Print accuracies, the most confused pairs and where the files are."""
    data = result.data
    console.print(f"{data_label(data)}, {data['test_images']:,} test images")
    if data["note"]:
        console.print(f"Note: {data['note']}")
    console.print(f"top-1 {result.top1:.2%}, top-5 {result.top5:.2%}")
    decoded = ", ".join(f"{index}: {share:.2%}" for index, share in enumerate(result.boundaries, start=1))
    console.print(f"decoded at boundary {decoded}")
    worst = sorted(result.per_class().items(), key=lambda item: item[1])[:5]
    console.print("hardest classes: " + ", ".join(f"{name} {share:.1%}" for name, share in worst))
    table = Table(title="Most confused")
    for column in ("class", "taken for", "images"):
        table.add_column(column, justify="right")
    for pair in result.most_confused():
        table.add_row(pair["class"], pair["taken_for"], f"{pair['images']:,}")
    console.print(table)
    console.print(f"Written to {folder}")
