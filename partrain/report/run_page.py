"""The page of a run: one file to look at, while it trains and after."""

from datetime import datetime
from pathlib import Path

import yaml

from partrain.data import Dataset
from partrain.report import run_sections as sections
from partrain.report.drawing import network_drawing
from partrain.report.page import environment, sharded_pages
from partrain.report.record import RunRecord
from partrain.report.run_figures import figures
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE


def write_page(
    record: RunRecord, command: str | None, dataset: Dataset | None = None, refresh: float | None = None
) -> Path:
    """Write report.html into the run's folder, from what is there so far.

    Args:
        record: What is there.
        command: What does the run again, where a command can.
        dataset: The run's, for pictures of confused images; without it, the one that its tasks name.
        refresh: Training goes on, and the browser is to look again after this many seconds.
    """
    text = (
        environment()
        .get_template("report/templates/run.html.j2")
        .render(
            title=f"{record.network} on {record.data}" if record.plan else "Run",
            record=record,
            refresh=refresh,
            updated=f"{datetime.now():%H:%M:%S}",
            stats=sections.headline(record),
            warnings=record.warnings(),
            drawing=network_drawing(record) if record.plan else None,
            plan=sections.plan_table(record),
            plots=figures(record),
            pairs=sections.confused_pairs(record.evaluation, dataset or _dataset(record)) if record.evaluation else [],
            processes=sections.process_table(record),
            sharded=sharded_pages(record.folder),
            command=command,
            config=yaml.safe_dump(record.config, sort_keys=False) if record.config else "",
        )
    )
    checkpoint.write_text(record.folder / PAGE, text, sync=refresh is None)
    return record.folder / PAGE


def _dataset(record: RunRecord) -> Dataset | None:
    """The prepared data set that the run's processes read, if it is still where it was."""
    folders = [process.task["data"] for process in record.processes if "data" in process.task]
    try:
        return Dataset.open(folders[0]) if folders else None
    except (ValueError, OSError):
        return None
