"""The table that a multirun leaves over its runs, as CSV, Markdown and a page with figures."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from partrain.console import console
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE, RESULTS

COLUMNS = (
    "run",
    "overrides",
    "test accuracy %",
    "before recovery %",
    "train seconds",
    "traffic bytes",
    "data",
    "verified data",
    "outcome",
)


class MultirunTable(Callback):
    """A callback of Hydra that rewrites table.csv, table.md and report.html in the sweep's folder after every run."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Add the row of the run that has ended, and write the tables and the page.

        Hydra calls no method at the end of a multirun in which a run has failed. So they are written after every run.
        """
        hydra = config.hydra
        if hydra.mode != RunMode.MULTIRUN:
            return
        has_failed = job_return.status != JobStatus.COMPLETED
        outcome = str(job_return._return_value).splitlines()[0] if has_failed else "done"
        overrides = " ".join(job_return.overrides or ())
        self._rows.append(make_row(Path(hydra.runtime.output_dir), overrides, outcome))

        folder = Path(hydra.sweep.dir)
        write_tables(self._rows, folder)
        write_report(self._rows, folder)
        console.print(f"Table over the {len(self._rows)} runs so far: {folder / 'table.md'}")


def make_row(run: Path, overrides: str, outcome: str) -> dict[str, Any]:
    """Return the table's row for a run. The columns that results.json fills are empty if the run has none.

    Args:
        run: The run's folder.
        overrides: The command line's settings of this run.
        outcome: "done", or the error.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"run": run.name, "overrides": overrides, "outcome": outcome}
    results_file = run / RESULTS
    if not results_file.exists():
        return row
    results = checkpoint.read_json(results_file)
    data, before = results["data"], results["test_accuracy_before_recovery"]
    return row | {
        "test accuracy %": f"{100 * results['test_accuracy']:.2f}",
        "before recovery %": "" if before is None else f"{100 * before:.2f}",
        "train seconds": f"{results['train_seconds']:.1f}",
        "traffic bytes": "unknown" if results["traffic_bytes"] is None else results["traffic_bytes"],
        "data": f"{data['name']} {data['split'] or ''}".strip(),
        "verified data": {True: "yes", False: "NO", None: "-"}[data["verified"]],
    }


def write_tables(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write `rows` to table.csv and table.md in `folder`."""
    write_csv(folder / "table.csv", rows)
    checkpoint.write_text(folder / "table.md", markdown_table(rows))


def write_report(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write report.html in `folder`: the table, with links to the runs' pages, and figures over all runs."""
    # Imported here, since these import plotly, which training need not wait for.
    from partrain.report.multirun_figures import multirun_plots
    from partrain.report.page import Link, RunsPage, write_runs_page
    from partrain.report.record import RunRecord

    names = _names(rows)
    records = {name: RunRecord.read(folder / row["run"]) for name, row in zip(names, rows, strict=True)}
    hrefs = [f"{row['run']}/{PAGE}" if (folder / row["run"] / PAGE).exists() else None for row in rows]
    linked = [row | {"run": Link(row["run"], href)} for row, href in zip(rows, hrefs, strict=True)]
    num_done = sum(row["outcome"] == "done" for row in rows)
    lead = f"{num_done} of {len(rows)} runs done"
    write_runs_page(folder, RunsPage(title="Multirun", rows=linked, plots=multirun_plots(records), lead=lead))


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """Return a name for each run: its folder, and the overrides that not all runs share."""
    overrides = [row["overrides"].split() for row in rows]
    shared = set(overrides[0]).intersection(*overrides)
    names = []
    for row, words in zip(rows, overrides, strict=True):
        own_words = [word for word in words if word not in shared]
        names.append(" ".join([row["run"], *own_words]))
    return names
