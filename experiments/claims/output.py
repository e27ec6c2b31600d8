"""What the scripts of claims leave: table.csv and table.md, with what was measured on what, and a plot beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

from partrain.comparison.table import CellRun
from partrain.console import console
from partrain.data import Dataset
from partrain.launch.machine import described, machine
from partrain.report.console_tables import dataset_label
from partrain.report.style import COLOURS
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint


def write_run_table(
    folder: Path, rows: Sequence[Mapping[str, Any]], runs: Sequence[CellRun], notes: Sequence[str] = ()
) -> None:
    """Write table.csv and table.md, with what was measured on what, and print the latter."""
    results = runs[0].results
    data, versions = results["data"], results["versions"]
    about = f"{dataset_label(data)}: {data['train_images']:,} training images, {data['test_images']:,} test images."
    about += f" {data['note']}." if data["note"] else ""
    on = f"{described(machine())}; torch {versions['torch']}, Python {versions['python']}; precision {precision(runs)}."
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", "\n\n".join([markdown_table(rows).rstrip(), *notes, about, on]) + "\n")
    console.print((folder / "table.md").read_text(), markup=False)


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]], notes: Sequence[str], dataset: Dataset) -> None:
    """Write table.csv and table.md, with `notes` and what was measured on what, of claims that do not compare runs."""
    about = f"{dataset_label(dataset.provenance())}, {len(dataset.train):,} training images; {described(machine())}; "
    about += f"torch {torch.__version__}."
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", "\n\n".join([markdown_table(rows).rstrip(), *notes, about]) + "\n")


def ratio_columns(name: str, above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Ratios, taken within each repetition: their median, called `name`, the least and the most."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    values = {name: median(ratios), "least": min(ratios), "most": max(ratios)}
    return {column: float(f"{value:.3g}") for column, value in values.items()}


def precision(runs: Sequence[CellRun]) -> str:
    return ", ".join(sorted({run.results["train"]["precision"] for run in runs}))


def save_figure(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    checkpoint.write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


def plot_bars(found: Mapping[str, Sequence[float]], ours: Sequence[str], axis: str, path: Path, unit: str = "") -> None:
    """A bar for each side's median, a dot for each of its values; sides that are `ours` in another colour."""
    figure = Figure(figsize=(8, 1.1 + 0.5 * len(found)))
    axes = figure.subplots()
    for place, (side, values) in enumerate(found.items()):
        colour, middle = COLOURS[1] if side in ours else COLOURS[0], median(values)
        axes.barh(place, middle, color=colour, alpha=0.5, height=0.6)
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=4)
        text = f"{middle:,.0f}{unit}"
        axes.annotate(text, (max(values), place), (8, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(right=1.15 * max(max(values) for values in found.values()))
    axes.set_xlabel(f"{axis} (dot: a run, bar: median)")
    save_figure(figure, path)
