"""The parts that all HTML pages share: templates, tables, headline numbers; and the page of several runs side by side.

A page is a single file. plotly's JavaScript is included in compressed form, and the browser unpacks it.
"""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from partrain.report.plotly_figures import Plot
from partrain.report.style import COLOURS
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE, SHARDS

Row = dict[str, Any]


class Stat(NamedTuple):
    """A headline number at the top of a page, with a label and a note in small print."""

    label: str
    value: str
    note: str = ""


class Link(NamedTuple):
    """A value in a row of a table that links to a page. `href` is relative to the table's page, or None for no link."""

    value: Any
    href: str | None


class TableCell(NamedTuple):
    """A cell of a table, with its text and link. `value` is what it is sorted by, if that is not the text."""

    text: str
    value: float | str | None = None
    href: str | None = None


class Table(NamedTuple):
    """A table that a click on a column's heading sorts. The columns in `numeric` are aligned to the right."""

    columns: list[str]
    numeric: set[str]
    rows: list[list[TableCell]]


@dataclass(frozen=True, kw_only=True)
class RunsPage:
    """The contents of a page that shows several runs side by side: figures, and a table with a row per run.

    Columns without a single value are left out of both tables.

    Attributes:
        title: The page's heading.
        rows: The rows of the table "Runs", all with the same columns. A `Link` leads to the run's own page.
        plots: The figures.
        lead: The sentence below the heading.
        summary: The rows of a shorter table above the figures, all with the same columns.
        summary_caption: The sentence above the shorter table.
        rows_caption: The sentence above the table "Runs".
    """

    title: str
    rows: Sequence[Row]
    plots: Sequence[Plot]
    lead: str = ""
    summary: Sequence[Row] = ()
    summary_caption: str = ""
    rows_caption: str = ""


def write_runs_page(folder: Path, page: RunsPage) -> Path:
    """Write `page` to report.html in `folder`, and return the file's path."""
    template = template_environment().get_template("report/templates/runs.html.j2")
    text = template.render(
        title=page.title,
        lead=page.lead,
        summary=make_table(page.summary) if page.summary else None,
        summary_caption=page.summary_caption,
        rows_caption=page.rows_caption,
        table=make_table(page.rows),
        plots=page.plots,
        refresh=None,
    )
    checkpoint.write_text(folder / PAGE, text)
    return folder / PAGE


def make_table(rows: Sequence[Row]) -> Table:
    """Return a sortable table of `rows`, which have the same columns, without the columns that are empty in all rows.

    A column is numeric if it is not the first and all its values are numbers or empty.
    """
    columns = [column for column in (rows[0] if rows else []) if any(row[column] not in ("", None) for row in rows)]
    cells = [[_table_cell(row[column]) for column in columns] for row in rows]
    numeric = {
        column
        for position, column in enumerate(columns)
        if position > 0 and all(isinstance(row[position].value, float) or not row[position].text for row in cells)
    }
    return Table(columns, numeric, cells)


def _table_cell(value: Any) -> TableCell:
    """Return the cell that shows `value`. Text that is a number is sorted as a number."""
    if isinstance(value, Link):
        return _table_cell(value.value)._replace(href=value.href)
    if value is None:
        return TableCell("")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return TableCell(f"{value:,}", float(value))
    try:
        return TableCell(str(value), float(value))
    except ValueError:
        return TableCell(str(value))


def sharded_training_pages(folder: Path) -> list[str]:
    """Return the paths, relative to `folder`, of the pages of the sharded trainings below it."""
    return [str(page.relative_to(folder)) for page in sorted(folder.glob(f"{SHARDS}/*/{PAGE}"))]


@cache
def template_environment() -> Environment:
    """Return the jinja2 environment that loads the templates of all pages and holds the globals that they use."""
    templates = Environment(
        loader=PackageLoader("partrain", ""),  # Templates are in the packages whose pages they describe.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(colours=COLOURS, plotly=_compressed_plotly, figure_json=_figure_json)
    return templates


@cache
def _compressed_plotly() -> str:
    """Return plotly's JavaScript, compressed by gzip and written in base64: 2 MB instead of 5 MB."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _figure_json(plot: Plot) -> Markup:
    """Return the figure as JSON for a script element, without the "</" that would end the element."""
    return Markup(plot.figure.to_json().replace("<", "\\u003c"))
