"""The files that the scripts of claims write: table.csv, table.md with the conditions of measurement, and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from partrain.comparison.table import CellRun
from partrain.console import console
from partrain.data import Dataset
from partrain.launch.machine import describe_machine, machine_facts
from partrain.report.console_tables import dataset_label
from partrain.report.style import COLOURS
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint


def write_run_table(
    folder: Path, rows: Sequence[Mapping[str, Any]], runs: Sequence[CellRun], notes: Sequence[str] = ()
) -> None:
    """Write table.csv and table.md for a claim that compares runs, and print the latter.

    Args:
        folder: The folder of the files.
        rows: The rows of the table, with the same columns.
        runs: The runs behind the table. Their data, versions and precision are written below it.
        notes: Sentences to write below the table.
    """
    results = runs[0].results
    data, versions = results["data"], results["versions"]
    data_note = f" {data['note']}." if data["note"] else ""
    images = f"{data['train_images']:,} training images, {data['test_images']:,} test images."
    software = f"torch {versions['torch']}, Python {versions['python']}; precision {precisions(runs)}."
    conditions = [f"{dataset_label(data)}: {images}{data_note}", f"{describe_machine(machine_facts())}; {software}"]
    _write_tables(folder, rows, [*notes, *conditions])
    console.print((folder / "table.md").read_text(), markup=False)


def precisions(runs: Sequence[CellRun]) -> str:
    """Return the floating-point precisions of the runs, e.g. "bf16"."""
    return ", ".join(sorted({run.results["train"]["precision"] for run in runs}))


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]], notes: Sequence[str], dataset: Dataset) -> None:
    """Write table.csv and table.md for a claim that does not compare runs.

    Args:
        folder: The folder of the files.
        rows: The rows of the table, with the same columns.
        notes: Sentences to write below the table.
        dataset: The data set behind the table, which is named below it.
    """
    data = f"{dataset_label(dataset.provenance())}, {len(dataset.train):,} training images"
    _write_tables(folder, rows, [*notes, f"{data}; {describe_machine(machine_facts())}; torch {torch.__version__}."])


def _write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], paragraphs: Sequence[str]) -> None:
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", "\n\n".join([markdown_table(rows).rstrip(), *paragraphs]) + "\n")


def ratio_columns(name: str, above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the columns of a ratio that is taken within each repetition, with three significant digits.

    Args:
        name: The column of the median. Those of the extremes are called "least" and "most".
        above: The numerator in each repetition.
        below: The denominator in each repetition.
    """
    ratios = [numerator / denominator for numerator, denominator in zip(above, below, strict=True)]
    values = {name: median(ratios), "least": min(ratios), "most": max(ratios)}
    return {column: float(f"{value:.3g}") for column, value in values.items()}


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure to a PNG file, in one piece."""
    figure.tight_layout()
    checkpoint.write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


def plot_bars(
    values_by_side: Mapping[str, Sequence[float]], ours: Sequence[str], x_label: str, path: Path, unit: str = ""
) -> None:
    """Write a plot with a bar for each side's median and a dot for each of its values.

    Args:
        values_by_side: The values of each side that is compared, by its name.
        ours: The names of partrain's sides, which get another colour.
        x_label: The label of the axis of values.
        path: The PNG file.
        unit: The text that follows each median, e.g. " s".
    """
    figure = Figure(figsize=(8, 1.1 + 0.5 * len(values_by_side)))
    axes = figure.subplots()
    for position, (side, values) in enumerate(values_by_side.items()):
        colour = COLOURS[1] if side in ours else COLOURS[0]
        add_bar_with_dots(axes, position, values, colour)
        label = f"{median(values):,.0f}{unit}"
        axes.annotate(label, (max(values), position), (8, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(values_by_side)), list(values_by_side))
    axes.invert_yaxis()
    axes.set_xlim(right=1.15 * max(map(max, values_by_side.values())))
    axes.set_xlabel(f"{x_label} (dot: a run, bar: median)")
    save_figure(figure, path)


def add_bar_with_dots(axes: Axes, position: int, values: Sequence[float], colour: str) -> None:
    """Add a horizontal bar for the median of `values`, and a dot for each, in the row at `position`."""
    axes.barh(position, median(values), color=colour, alpha=0.5, height=0.6)
    axes.plot(values, [position] * len(values), "o", color=colour, markersize=4)
