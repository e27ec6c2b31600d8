"""The files that a comparison writes: tables over its runs, a summary over its cells, and its page.

They are table.csv, table.md, table.json, summary.csv, summary.md and report.html.
"""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from partrain.comparison.figures import comparison_plots
from partrain.comparison.grid import Cell
from partrain.comparison.summary import SPEEDUP_PREFIX, SUMMARY_NOTES, format_summary_row, speedup_heading, summarise
from partrain.comparison.table import CellRun, run_json_row, run_row
from partrain.launch.machine import describe_machine
from partrain.report.console_tables import dataset_label
from partrain.report.page import Link, RunsPage, write_runs_page
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE


class ComparisonResults:
    """The runs of a comparison so far, and the rows of its tables.

    Args:
        runs: The runs that have finished or failed.
        cells: All cells of the comparison.
        description: The conditions that are written beside the tables: the grid, the shared settings, the machine, the
            command and the data's provenance.
    """

    def __init__(self, runs: Sequence[CellRun], cells: Sequence[Cell], description: dict[str, Any]) -> None:
        positions = {cell: position for position, cell in enumerate(cells)}
        self.runs = sorted(runs, key=lambda run: (positions[run.cell], run.repeat))
        """The runs, ordered by cell and repeat."""
        self.cells, self.description = cells, description
        self.accuracies: list[float] = description["grid"]["accuracies"]
        """The fractions for which the tables have the seconds until a run reached them."""

    @cached_property
    def run_rows(self) -> list[dict[str, Any]]:
        """Return the rows of table.csv, one per run."""
        return [run_row(run, self.accuracies) for run in self.runs]

    @cached_property
    def summary_rows(self) -> list[dict[str, Any]]:
        """Return the rows of summary.csv, one per cell."""
        return summarise(self.runs, self.cells, self.accuracies)

    @property
    def title(self) -> str:
        """Return the heading of the summary and of the page."""
        return f"Strategies compared on {dataset_label(self.description['data'])}"

    def versions(self) -> dict[str, str]:
        """Return the version of each library that the runs used, or the versions if runs differ in them."""
        versions: dict[str, list[str]] = {}
        for run in self.runs:
            for name, version in run.results.get("versions", {}).items():
                known = versions.setdefault(name, [])
                if version not in known:
                    known.append(version)
        return {name: ", ".join(known) for name, known in versions.items()}


def write_outputs(folder: Path, results: ComparisonResults) -> None:
    """Write all tables and the page of `results` to `folder`."""
    write_csv(folder / "table.csv", results.run_rows)
    checkpoint.write_text(folder / "table.md", markdown_table(results.run_rows))
    detailed_rows = [run_json_row(run, results.accuracies) for run in results.runs]
    detailed = results.description | {"versions": results.versions(), "rows": detailed_rows}
    checkpoint.write_json(folder / "table.json", detailed)
    write_csv(folder / "summary.csv", results.summary_rows)
    checkpoint.write_text(folder / "summary.md", summary_markdown(results))
    write_runs_page(folder, comparison_page(results, folder))


# ---- The summary.


def summary_markdown(results: ComparisonResults) -> str:
    """Return the text of summary.md: the table, how to read it, and the data, machine and command behind it."""
    notes = "\n".join(f"- {note}" for note in SUMMARY_NOTES)
    data = results.description["data"]
    images = f"{data['train_images']:,} training and {data['test_images']:,} test images"
    data_note = f" {data['note']}." if data["note"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions().items())
    paragraphs = [
        f"# {results.title}",
        markdown_table([format_summary_row(row) for row in results.summary_rows]).rstrip("\n"),
        notes,
        f"{dataset_label(data)}: {images}.{data_note}",
        f"{describe_machine(results.description['machine'])}; {versions}",
        f"`{results.description['command']}`",
    ]
    return "\n\n".join(paragraphs) + "\n"


# ---- The page.


def comparison_page(results: ComparisonResults, folder: Path) -> RunsPage:
    """Return the page of a comparison in `folder`: the medians, the figures, and a table that links to the runs' pages."""
    rows = [
        {"run": _link(folder, run)} | _page_row(row) for run, row in zip(results.runs, results.run_rows, strict=True)
    ]
    medians = [_median_row(cell, row) for cell, row in zip(results.cells, results.summary_rows, strict=True)]
    description = results.description
    num_planned = len(results.cells) * description["grid"]["repeats"]
    machine = describe_machine(description["machine"])
    return RunsPage(
        title=results.title,
        lead=f"{len(results.runs)} of {num_planned} runs. {machine}. {description['command']}",
        summary=medians,
        summary_caption=(
            "A row per cell of the grid: a strategy, a network and its width, K segments, a batch size and a number of "
            "microbatches. The file summary.md in the same folder explains the columns."
        ),
        plots=comparison_plots(results.runs, results.cells),
        rows=rows,
        rows_caption="A row per run, with the columns of table.csv: fractions, seconds and bytes.",
    )


def _median_row(cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the summary in the page's units. Values that no run has yet are None."""

    def in_units(key: str, digits: int, unit: float = 1) -> float | None:
        return None if row[key] is None else round(row[key] / unit, digits)

    speedups = {speedup_heading(key): in_units(key, 2) for key in row if key.startswith(SPEEDUP_PREFIX)}
    return {
        "cell": cell.name,
        "runs": row["runs"],
        "samples/s": in_units("samples_per_second", 0),
        **speedups,
        "test accuracy, %": in_units("test_accuracy_mean", 2, 0.01),
        "peak memory, MiB": in_units("peak_memory_bytes", 1, 2**20),
        "traffic per step, KiB": in_units("traffic_bytes_per_step", 1, 2**10),
        "utilisation, %": in_units("utilization", 0, 0.01),
    }


def _link(folder: Path, run: CellRun) -> Link:
    """Return the run's name, with a link to the run's own page if it has one."""
    page = f"{run.folder}/{PAGE}"
    return Link(f"{run.cell.name}/{run.repeat}", page if (folder / page).exists() else None)


def _page_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table with floats of four digits, without the columns that the run's name stands for."""
    in_name = {cell_field.name for cell_field in fields(Cell)} | {"repeat"}
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in row.items()
        if key not in in_name
    }
