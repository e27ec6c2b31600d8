"""The files that an evaluation writes, and the summary that it prints on the console."""

from pathlib import Path

from rich.table import Table

from partrain.console import console
from partrain.report.console_tables import dataset_label
from partrain.report.plots import plot_confusion, plot_curves, plot_per_class
from partrain.stitching.evaluate import Evaluation
from partrain.storage.run_folder import CONFUSION_PLOT, CURVES_PLOT, EVALUATION, METRICS, PER_CLASS_PLOT, SEGMENTS


def write_evaluation(result: Evaluation, run: Path, folder: Path) -> None:
    """Write evaluation.json, confusion.png and per_class.png to `folder`, and curves.png of the run in folder `run`."""
    result.write(folder / EVALUATION)
    plot_confusion(result, folder / CONFUSION_PLOT)
    plot_per_class(result, folder / PER_CLASS_PLOT)
    plot_curves(sorted((run / SEGMENTS).glob(f"*/{METRICS}")), folder / CURVES_PLOT)


def print_evaluation(result: Evaluation, folder: Path) -> None:
    """Print the accuracies, the hardest classes and the most frequent confusions, and where the files are."""
    data = result.data
    console.print(f"{dataset_label(data)}, {data['test_images']:,} test images")
    if data["note"]:
        console.print(f"Note: {data['note']}")
    console.print(f"Test accuracy: top-1 {result.top1:.2%}, top-5 {result.top5:.2%}")
    decoded = ", ".join(f"{index}: {accuracy:.2%}" for index, accuracy in enumerate(result.boundaries, start=1))
    console.print(f"Decode accuracy at boundary {decoded}")
    lowest = sorted(result.per_class().items(), key=lambda item: item[1])[:5]
    console.print("Classes with the lowest accuracy: " + ", ".join(f"{name} {share:.1%}" for name, share in lowest))
    console.print(_confusion_table(result))
    console.print(f"Written to {folder}")


def _confusion_table(result: Evaluation) -> Table:
    table = Table(title="Most frequent confusions")
    for column in ("true class", "predicted class", "images"):
        table.add_column(column, justify="right")
    for pair in result.most_confused():
        table.add_row(pair["class"], pair["taken_for"], f"{pair['images']:,}")
    return table
