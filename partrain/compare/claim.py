"""What the scripts of claims that rest on comparisons share: the runs by grid.yaml, the table, the plot beside it."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure

from partrain import checkpoint
from partrain.compare.cells import compare
from partrain.compare.machine import described, machine
from partrain.compare.table import Run
from partrain.config import clear_errors, composed, grid_settings, run_settings
from partrain.console import console
from partrain.data import Dataset, DataSettings
from partrain.report.plots import COLOURS
from partrain.report.rows import markdown, write_csv
from partrain.report.tables import data_label


def parser(description: str | None, here: Path) -> argparse.ArgumentParser:
    """A parser with the options that these claims take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--root", help="folder with EMNIST/raw; without it the files are downloaded, where they are needed"
    )
    made.add_argument("--runs", type=Path, default=Path("runs/claims") / here.name, help="kept, and gone on with")
    made.add_argument("--out", type=Path, default=here, help="folder for the table and the plot")
    made.add_argument("--set", nargs="*", default=[], help="further overrides for every run, to try it small")
    return made


def runs_of(here: Path, given: argparse.Namespace, folder: str = "", overrides: Sequence[str] = ()) -> list[Run]:
    """The runs of the comparison that `here`/grid.yaml and `overrides` describe, done now as far as they are not."""
    listed = [f"{name}={_written(value)}" for name, value in yaml.safe_load((here / "grid.yaml").read_text()).items()]
    if given.root:
        listed += [f"data.root={Path(given.root).absolute()}", "data.download=false"]
    config = composed(here.parents[2] / "conf", "compare", [*listed, *overrides, *given.set])
    runs = compare(run_settings(config), grid_settings(config), given.runs / folder)
    failed = [run for run in runs if not run.results]
    if failed:
        raise ValueError(f"{failed[0].folder}: {failed[0].outcome}")
    return runs


def _written(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def write(folder: Path, rows: Sequence[Mapping[str, Any]], runs: Sequence[Run], notes: Sequence[str] = ()) -> None:
    """Write table.csv and table.md, with what was measured on what, and print the latter."""
    results = runs[0].results
    data, versions = results["data"], results["versions"]
    about = f"{data_label(data)}: {data['train_images']:,} training images, {data['test_images']:,} test images."
    about += f" {data['note']}." if data["note"] else ""
    on = f"{described(machine())}; torch {versions['torch']}, Python {versions['python']}; precision {precision(runs)}."
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", "\n\n".join([markdown(rows).rstrip(), *notes, about, on]) + "\n")
    console.print((folder / "table.md").read_text(), markup=False)


def main_of(
    description: str | None,
    here: Path,
    table: Callable[[list[Run]], list[dict[str, Any]]],
    plot: Callable[[list[dict[str, Any]], Path], None],
) -> None:
    """A claim's script whose runs are those of grid.yaml and no others: their `table`, and the `plot` of it."""
    given = parser(description, here).parse_args()
    with clear_errors():
        runs = runs_of(here, given)
        rows = table(runs)
        write(given.out, rows, runs)
        plot(rows, given.out / "plot.png")


def claim_data(given: argparse.Namespace) -> DataSettings:
    """EMNIST ByMerge in `--root`, or the built-in data without one."""
    if given.root:
        return DataSettings(name="emnist", split="bymerge", root=given.root, download=False)
    return DataSettings()


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]], notes: Sequence[str], dataset: Dataset) -> None:
    """Write table.csv and table.md, with `notes` and what was measured on what, of claims that do not compare runs."""
    about = f"{data_label(dataset.provenance())}, {len(dataset.train):,} training images; {described(machine())}; "
    about += f"torch {torch.__version__}."
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", "\n\n".join([markdown(rows).rstrip(), *notes, about]) + "\n")


def ratio_columns(name: str, above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Ratios, taken within each repetition: their median, called `name`, the least and the most."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    values = {name: median(ratios), "least": min(ratios), "most": max(ratios)}
    return {column: float(f"{value:.3g}") for column, value in values.items()}


def precision(runs: Sequence[Run]) -> str:
    return ", ".join(sorted({run.results["train"]["precision"] for run in runs}))


def save(figure: Figure, path: Path) -> None:
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
    save(figure, path)
