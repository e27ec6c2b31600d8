"""The HTML page of a run, written while it trains and after it has finished."""

from datetime import datetime
from pathlib import Path

import yaml

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.report import run_sections
from partrain.report.drawing import network_drawing
from partrain.report.page import sharded_training_pages, template_environment
from partrain.report.record import RunRecord
from partrain.report.run_figures import run_plots
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE


def write_page(
    record: RunRecord, command: str | None, dataset: Dataset | None = None, refresh: float | None = None
) -> Path:
    """Write report.html to the run's folder from the files so far, and return its path.

    Args:
        record: The run.
        command: The command that does the same run again, or None if there is no such command.
        dataset: The run's data set, for pictures of confused images. By default the one that the run's tasks name.
        refresh: Seconds after which the browser reloads the page, while the run is training. None after its end.
    """
    pairs = []
    if record.evaluation:
        pairs = run_sections.confused_pairs(record.evaluation, dataset or _open_dataset(record))
    template = template_environment().get_template("report/templates/run.html.j2")
    text = template.render(
        title=f"{record.network} on {record.data}" if record.plan else "Run",
        record=record,
        refresh=refresh,
        updated=f"{datetime.now():%H:%M:%S}",
        stats=run_sections.headline(record),
        warnings=record.warnings(),
        drawing=network_drawing(record) if record.plan else None,
        plan=run_sections.plan_table(record),
        plots=run_plots(record),
        pairs=pairs,
        processes=run_sections.process_table(record),
        sharded=sharded_training_pages(record.folder),
        command=command,
        config=yaml.safe_dump(record.config, sort_keys=False) if record.config else "",
    )
    checkpoint.write_text(record.folder / PAGE, text, sync=refresh is None)
    return record.folder / PAGE


def _open_dataset(record: RunRecord) -> Dataset | None:
    """Return the prepared data set that the run's processes read, or None if it is not there any more."""
    folders = [process.task["data"] for process in record.processes if "data" in process.task]
    try:
        return Dataset.open(folders[0]) if folders else None
    except (UserError, OSError):
        return None
