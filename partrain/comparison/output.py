"""What a comparison leaves: table.{csv,md,json} over the runs, summary.{csv,md} over the cells, report.html."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from partrain.comparison.figures import comparison_plots
from partrain.comparison.grid import Cell
from partrain.comparison.summary import SUMMARY_NOTES, format_summary_row, summarise
from partrain.comparison.table import CellRun, run_json_row, run_row
from partrain.launch.machine import described
from partrain.report.console_tables import dataset_label
from partrain.report.page import Link, RunsPage, write_runs_page
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE


def write_tables(folder: Path, runs: Sequence[CellRun], cells: Sequence[Cell], about: dict[str, Any]) -> None:
    """Write all of it, over the `runs` so far. `about`: the grid, the shared settings, machine, command and data."""
    accuracies = about["grid"]["accuracies"]
    places = {cell: place for place, cell in enumerate(cells)}
    runs = sorted(runs, key=lambda run: (places[run.cell], run.repeat))
    rows = [run_row(run, accuracies) for run in runs]
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", markdown_table(rows))
    versions = _versions(runs)
    detailed = [run_json_row(run, accuracies) for run in runs]
    checkpoint.write_json(folder / "table.json", about | {"versions": versions, "rows": detailed})
    summary = summarise(runs, cells, accuracies)
    write_csv(folder / "summary.csv", summary)
    checkpoint.write_text(folder / "summary.md", summary_page(summary, about, versions))
    write_page(folder, runs, cells, rows, summary, about)


def _versions(runs: Sequence[CellRun]) -> dict[str, str]:
    """Of what the runs were done with; several where they differ."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for name, version in run.results.get("versions", {}).items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return {name: ", ".join(versions) for name, versions in found.items()}


def summary_page(summary: Sequence[dict[str, Any]], about: dict[str, Any], versions: dict[str, str]) -> str:
    """summary.md: the table, how to read it, and what it was measured on."""
    notes = "\n".join(f"- {note}" for note in SUMMARY_NOTES)
    data = about["data"]
    images = f"{data['train_images']:,} training and {data['test_images']:,} test images"
    note = f" {data['note']}." if data["note"] else ""
    return "\n".join(
        [
            f"# {_title(about)}\n",
            markdown_table([format_summary_row(each) for each in summary]),
            f"{notes}\n",
            f"{dataset_label(data)}: {images}.{note}\n",
            f"{described(about['machine'])}; {', '.join(' '.join(each) for each in versions.items())}\n",
            f"`{about['command']}`\n",
        ]
    )


def write_page(
    folder: Path,
    runs: Sequence[CellRun],
    cells: Sequence[Cell],
    rows: Sequence[dict[str, Any]],
    summary: Sequence[dict[str, Any]],
    about: dict[str, Any],
) -> None:
    """report.html: the cells' medians, the figures, and the runs' table, which leads to their own pages."""
    named = [{"run": _link(folder, run)} | _measured(each) for run, each in zip(runs, rows, strict=True)]
    lead = f"{len(runs)} of {len(cells) * about['grid']['repeats']} runs. {described(about['machine'])}. {about['command']}"
    medians = [_medians(cell, each) for cell, each in zip(cells, summary, strict=True)]
    page = RunsPage(title=_title(about), rows=named, plots=comparison_plots(runs, cells), lead=lead, summary=medians)
    write_runs_page(folder, page)


def _link(folder: Path, run: CellRun) -> Link:
    """Return the run's name, with a link to the run's own page if it has one."""
    page = f"{run.folder}/{PAGE}"
    return Link(f"{run.cell.name}/{run.repeat}", page if (folder / page).exists() else None)


def _medians(cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
    """A row of the summary in the page's units; what no run has told yet is left empty."""

    def number(name: str, digits: int, unit: float = 1) -> float | None:
        return None if row[name] is None else round(row[name] / unit, digits)

    faster = {
        f"synthetic, K = {name.removeprefix('synthetic_speedup_k')}, is × faster": number(name, 2)
        for name in row
        if name.startswith("synthetic_speedup_k")
    }
    return {
        "cell": cell.name,
        "runs": row["runs"],
        "samples/s": number("samples_per_second", 0),
        **faster,
        "test accuracy, %": number("test_accuracy_mean", 2, 0.01),
        "peak memory, MiB": number("peak_memory_bytes", 1, 2**20),
        "traffic per step, KiB": number("traffic_bytes_per_step", 1, 2**10),
        "utilisation, %": number("utilization", 0, 0.01),
    }


def _title(about: dict[str, Any]) -> str:
    return f"Strategies compared on {dataset_label(about['data'])}"


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what its run's name says already, to four digits."""
    said = {each.name for each in fields(Cell)} | {"repeat"}
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in row.items()
        if name not in said
    }
