"""Plots of a run's evaluation and training curves as PNG files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from partrain.report.console_tables import dataset_label
from partrain.report.style import COLOURS
from partrain.stitching.evaluate import Evaluation
from partrain.storage import checkpoint
from partrain.storage.run_folder import SEGMENTS


def plot_confusion(result: Evaluation, path: Path) -> None:
    """Write a plot of the confusion matrix, in which each row is divided by its class's number of images."""
    fractions = result.confusion / result.confusion.sum(dim=1, keepdim=True).clamp(min=1)
    side_inches = max(5.0, 0.2 * len(result.classes))
    figure = Figure(figsize=(side_inches + 1, side_inches))
    axes = figure.subplots()
    image = axes.imshow(fractions.numpy(), cmap="cividis", vmin=0, vmax=1)
    ticks = range(len(result.classes))
    axes.set_xticks(ticks, result.classes, fontsize=8)
    axes.set_yticks(ticks, result.classes, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    title = f"{dataset_label(result.data)}: {result.top1:.2%} of {result.data['test_images']:,} test images are right"
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="fraction of the true class's images", fraction=0.04)
    _save(figure, path)


def plot_per_class(result: Evaluation, path: Path) -> None:
    """Write a bar plot of each class's accuracy in per cent, the lowest first."""
    accuracies = sorted(result.per_class().items(), key=lambda item: item[1])
    figure = Figure(figsize=(max(5.0, 0.25 * len(accuracies)), 3.5))
    axes = figure.subplots()
    axes.bar(range(len(accuracies)), [100 * accuracy for _, accuracy in accuracies], color=COLOURS[0])
    axes.set_xticks(range(len(accuracies)), [name for name, _ in accuracies])
    axes.axhline(100 * result.top1, color=COLOURS[1], linestyle="--", label=f"all images: {result.top1:.2%}")
    axes.set(xlabel="class", ylabel="test accuracy, %", ylim=(0, 100), title=dataset_label(result.data))
    axes.legend(loc="lower right")
    _save(figure, path)


def plot_curves(metrics_files: Sequence[Path], path: Path) -> None:
    """Write a plot of the loss and decode accuracy of every process by epoch, from their metrics.csv."""
    figure = Figure(figsize=(10, 4))
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for index, file in enumerate(metrics_files):
        with file.open(encoding="utf-8") as text:
            # The inner stages of a pipeline never see a loss.
            rows = [row for row in csv.DictReader(text) if row["loss"]]
        epochs = [int(row["epoch"]) for row in rows]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": "o", "markersize": 3, "label": _process_name(file)}
        loss_axes.plot(epochs, [float(row["loss"]) for row in rows], **style)
        accuracy_axes.plot(epochs, [100 * float(row["decode_accuracy"]) for row in rows], **style)
    loss_axes.set(xlabel="epoch", ylabel="training loss", yscale="log")
    accuracy_axes.set(xlabel="epoch", ylabel="decode accuracy on the training inputs, %")
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def _process_name(metrics_file: Path) -> str:
    """Return the name of the process whose folder holds `metrics_file`, e.g. "segment 0"."""
    process_folder = metrics_file.parent
    kind = "segment" if process_folder.parent.name == SEGMENTS else "process"
    return f"{kind} {process_folder.name}"


def _save(figure: Figure, path: Path) -> None:
    """Write the figure to a PNG file in one piece, so that nobody reads half of it."""
    checkpoint.write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))
