"""Plots as PNG files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from partrain.report.console_tables import data_label
from partrain.report.style import COLOURS
from partrain.stitching.evaluate import Evaluation
from partrain.storage import checkpoint
from partrain.storage.run_folder import SEGMENTS


def _save(figure: Figure, path: Path) -> None:
    checkpoint.write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


def plot_confusion(result: Evaluation, path: Path) -> None:
    """The confusion matrix, each row as shares of its class's images."""
    shares = result.confusion / result.confusion.sum(dim=1, keepdim=True).clamp(min=1)
    side = max(5.0, 0.2 * len(result.classes))
    figure = Figure(figsize=(side + 1, side))
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    ticks = range(len(result.classes))
    axes.set_xticks(ticks, result.classes, fontsize=8)
    axes.set_yticks(ticks, result.classes, fontsize=8)
    axes.set(xlabel="taken for", ylabel="class")
    axes.set_title(f"{data_label(result.data)}: {result.top1:.2%} of {result.data['test_images']:,} test images right")
    figure.colorbar(image, ax=axes, label="share of the class's images", fraction=0.04)
    _save(figure, path)


def plot_per_class(result: Evaluation, path: Path) -> None:
    """Accuracy by class, the hardest first."""
    shares = sorted(result.per_class().items(), key=lambda item: item[1])
    figure = Figure(figsize=(max(5.0, 0.25 * len(shares)), 3.5))
    axes = figure.subplots()
    axes.bar(range(len(shares)), [100 * share for _, share in shares], color=COLOURS[0])
    axes.set_xticks(range(len(shares)), [name for name, _ in shares])
    axes.axhline(100 * result.top1, color=COLOURS[1], linestyle="--", label=f"all images: {result.top1:.2%}")
    axes.set(xlabel="class", ylabel="right, %", ylim=(0, 100), title=data_label(result.data))
    axes.legend(loc="lower right")
    _save(figure, path)


def plot_curves(metrics: Sequence[Path], path: Path) -> None:
    """Loss and decode accuracy of every segment or process against epoch, from their metrics.csv."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    for index, file in enumerate(metrics):
        with file.open(encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        seen = [row for row in rows if row["loss"]]  # a pipeline's inner stages never see a loss
        epochs = [int(row["epoch"]) for row in seen]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": "o", "markersize": 3, "label": _process_name(file)}
        left.plot(epochs, [float(row["loss"]) for row in seen], **style)
        right.plot(epochs, [100 * float(row["decode_accuracy"]) for row in seen], **style)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="decode accuracy on what it was fed, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def _process_name(metrics: Path) -> str:
    kind = "segment" if metrics.parent.parent.name == SEGMENTS else "process"
    return f"{kind} {metrics.parent.name}"
