"""The table that a multirun leaves over its runs, as CSV, Markdown and a page with figures."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig

from partrain.cli.errors import one_line
from partrain.console import console
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint
from partrain.storage.lock import wait_for_locks
from partrain.storage.run_folder import PAGE, RESULTS, SWEEP_JOB

COLUMNS = (
    "run",
    "overrides",
    "validation accuracy %",
    "test accuracy %",
    "before recovery %",
    "train seconds",
    "traffic bytes",
    "data",
    "verified data",
    "outcome",
)


class MultirunTable(Callback):
    """A callback of Hydra that rewrites table.csv, table.md and report.html in the sweep's folder after every job.

    Jobs may run in processes of their own, as under joblib's launcher. So each leaves in its folder what it was and how
    it ended, and the table is made of these files.
    """

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Note in the job's folder what it is."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _write_job(config, "under way")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note in the job's folder how it ended, and write the tables and the page over all jobs.

        Hydra calls no method at the end of a multirun in which a job has failed. So they are written after every job.
        """
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        has_failed = job_return.status != JobStatus.COMPLETED
        _write_job(config, one_line(job_return._return_value) if has_failed else "done")

        folder = Path(config.hydra.sweep.dir).absolute()
        with wait_for_locks([folder], lambda: False, console.print):
            rows = read_rows(folder)
            write_tables(rows, folder)
            write_report(rows, folder)
        console.print(f"Table over the {len(rows)} runs so far: {folder / 'table.md'}")


def _write_job(config: DictConfig, outcome: str) -> None:
    """Write what a job of a multirun is, and how it ended, to its folder."""
    hydra = config.hydra
    overrides = " ".join(hydra.overrides.task)
    values = {"number": hydra.job.num, "overrides": overrides, "outcome": outcome}
    checkpoint.write_json(Path(hydra.runtime.output_dir) / SWEEP_JOB, values)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the table's rows for the jobs of the multirun in `folder`, in their order."""
    jobs = [(checkpoint.read_json(path), path.parent) for path in folder.rglob(SWEEP_JOB)]
    jobs.sort(key=lambda job: job[0]["number"])
    return [make_row(run, job["overrides"], job["outcome"]) for job, run in jobs]


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
    validation = results.get("validation_accuracy")
    return row | {
        "validation accuracy %": "" if validation is None else f"{100 * validation:.2f}",
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
