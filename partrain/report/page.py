"""What all pages share: the templates, tables, headline numbers, and the page of several runs side by side.

Each page is one file that needs nothing else. plotly's JavaScript is in the page itself, compressed; the browser
unpacks it.
"""

import base64
import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from partrain.report.canvas import Plot
from partrain.report.style import COLOURS
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE, SHARDS


class Stat(NamedTuple):
    """A number of the headline."""

    label: str
    value: str
    note: str = ""


class Cell(NamedTuple):
    """Of a table. `value` is what it is sorted by, where that is not the text."""

    text: str
    value: float | str | None = None
    href: str | None = None


class Table(NamedTuple):
    """Sortable by every column; those named in `numeric` stand to the right."""

    columns: list[str]
    numeric: set[str]
    rows: list[list[Cell]]


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
        .get_template("report/templates/runs.html.j2")
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
    return [str(page.relative_to(folder)) for page in sorted(folder.glob(f"{SHARDS}/*/{PAGE}"))]


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


@cache
def environment() -> Environment:
    """The pages' templates, with what they all use."""
    templates = Environment(
        loader=PackageLoader("partrain", ""),  # pages lie with the parts that they are of
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
