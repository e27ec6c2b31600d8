"""The HTML pages: of a run, and of several runs side by side. Each is one file that needs nothing else.

plotly's JavaScript is in the page itself, compressed; the browser unpacks it.
"""

import base64
import gzip
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from partrain import checkpoint
from partrain.data import Dataset
from partrain.report import sections
from partrain.report.canvas import Plot
from partrain.report.command import command
from partrain.report.drawing import draw_network
from partrain.report.figures import figures
from partrain.report.plots import COLOURS
from partrain.report.record import RunRecord
from partrain.report.sections import Cell, Table
from partrain.report.settings import PAGE

_WIDTHS = {"wide": 1096, "narrow": 340}  # of the drawing, on a screen and on a phone


def write_page(folder: Path, dataset: Dataset | None = None, refresh: float | None = None) -> Path:
    """Write report.html into the run's `folder`, from what is there so far.

    `dataset`: the run's, for pictures of confused images; without it, the one that its tasks name. `refresh`: training
    goes on, and the browser is to look again after this many seconds.
    """
    record = RunRecord.read(folder, dataset)
    text = (
        environment()
        .get_template("run.html.j2")
        .render(
            title=f"{record.network} on {record.data}" if record.plan else "Run",
            record=record,
            refresh=refresh,
            updated=f"{datetime.now():%H:%M:%S}",
            stats=sections.headline(record),
            warnings=record.warnings(),
            drawings={name: Markup(draw_network(record, width)) for name, width in _WIDTHS.items()}
            if record.plan
            else {},
            plan=sections.plan_table(record),
            plots=figures(record),
            pairs=sections.confused_pairs(record.evaluation, dataset or _dataset(record)) if record.evaluation else [],
            processes=sections.process_table(record),
            sharded=sharded_pages(folder),
            command=_command(record),
            config=yaml.safe_dump(record.config, sort_keys=False) if record.config else "",
        )
    )
    checkpoint.write_text(folder / PAGE, text, sync=refresh is None)
    return folder / PAGE


def write_runs_page(
    folder: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    plots: Sequence[Plot],
    links: Sequence[str | None] = (),
    lead: str = "",
    summary: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write report.html into `folder`: a sentence (`lead`), `plots`, and a sortable table of `rows` of equal keys.

    `summary`: rows of a shorter table, which comes first.

    Columns that no row has a value for are left out. `links`: where the first cell of each row leads to, relative to
    `folder`; None: nowhere.
    """
    text = (
        environment()
        .get_template("runs.html.j2")
        .render(
            title=title,
            lead=lead,
            summary=make_table(summary) if summary else None,
            table=make_table(rows, links),
            plots=plots,
            refresh=None,
        )
    )
    checkpoint.write_text(folder / PAGE, text)
    return folder / PAGE


def sharded_pages(folder: Path) -> list[str]:
    """Where, relative to `folder`, the pages are of what was trained there in shards."""
    return [str(page.relative_to(folder)) for page in sorted(folder.glob(f"shards/*/{PAGE}"))]


def make_table(rows: Sequence[dict[str, Any]], links: Sequence[str | None] = ()) -> Table:
    """A sortable table of `rows` of equal keys, without the columns that no row has a value for.

    `links`: where the first cell of each row leads to; None: nowhere.
    """
    columns = [column for column in (rows[0] if rows else []) if any(row[column] not in ("", None) for row in rows)]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    for row, link in zip(cells, links, strict=False):
        row[0] = row[0]._replace(href=link)
    numeric = {
        column
        for number, column in enumerate(columns)
        if number > 0 and all(isinstance(row[number].value, float) or not row[number].text for row in cells)
    }
    return Table(columns, numeric, cells)


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell("")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:,}", float(value))
    try:
        return Cell(str(value), float(value))
    except ValueError:
        return Cell(str(value))


def _dataset(record: RunRecord) -> Dataset | None:
    """The prepared data set that the run's processes read, if it is still where it was."""
    folders = [process.task["data"] for process in record.processes if "data" in process.task]
    try:
        return Dataset.open(folders[0]) if folders else None
    except (ValueError, OSError):
        return None


def _command(record: RunRecord) -> str | None:
    """The command that does the run again; None for a run of arrays given from Python."""
    named = record.config.get("data", {}).get("name")
    same_data = named is not None and record.provenance.get("name", named) == named
    return command(record.config) if same_data else None


@cache
def environment() -> Environment:
    """The pages' templates, with what they all use."""
    templates = Environment(
        loader=PackageLoader("partrain", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(colours=COLOURS, plotly=_plotly, figure_json=_figure_json)
    return templates


@cache
def _plotly() -> str:
    """plotly's JavaScript, gzip in base64: 2 MB instead of 5."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _figure_json(plot: Plot) -> Markup:
    """For a script element, which "</" would end."""
    return Markup(plot.figure.to_json().replace("<", "\\u003c"))
