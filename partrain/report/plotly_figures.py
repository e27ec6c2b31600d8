"""Plotly figures in the style of partrain's pages, and the parts that figures of several pages share.

Text, grid and background get the page's colours in the browser, light or dark (templates/page.js). Black in a figure
stands for the colour of the page's text, and white for the colour of its panels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import plotly.graph_objects as go

from partrain.report.style import COLOURS

_DASHES = ("solid", "dash", "dot")


class Plot(NamedTuple):
    """A figure on a page, with its title and a caption that says how to read it."""

    title: str
    caption: str
    figure: go.Figure
    height: int = 340
    """The figure's height in pixels. It is the largest height of a square figure."""
    is_square: bool = False
    """Whether the figure is about as high as it is wide."""
    min_width: int = 0
    """The least width in pixels at which the figure is legible. A narrower page scrolls it sideways."""


class BarSeries(NamedTuple):
    """A series of bars with one name and colour, and a value for each row of the figure."""

    name: str
    colour: str
    values: Mapping[str, float]


def line_style(index: int) -> dict[str, Any]:
    """Return the colour, dash and width of line number `index` of a figure. The first 21 lines differ."""
    return {"color": COLOURS[index % len(COLOURS)], "dash": _DASHES[index // len(COLOURS) % len(_DASHES)], "width": 2}


def make_figure(x_label: str, y_label: str, **layout: Any) -> go.Figure:
    """Return an empty figure with labelled axes and its legend on top. `layout` is added to plotly's layout."""
    figure = go.Figure(layout={"template": None, "margin": {"l": 8, "r": 16, "t": 12, "b": 8}, **layout})
    figure.update_xaxes(title={"text": x_label, "standoff": 8, "font_size": 13}, automargin=True)
    figure.update_yaxes(title={"text": y_label, "standoff": 8, "font_size": 13}, automargin=True)
    figure.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "traceorder": "normal"})
    return figure


def set_epoch_axis(figure: go.Figure, last_epoch: float) -> None:
    """Put ticks of the horizontal axis at whole epochs only, up to `last_epoch`."""
    spacing = {"dtick": 1} if last_epoch <= 10 else {"nticks": 10}
    figure.update_xaxes(**spacing, tickformat="d")


def add_horizontal_bars(figure: go.Figure, series: BarSeries, value_template: str) -> None:
    """Add a horizontal bar for each value of `series`. Rows are below one another, the first on top.

    Args:
        figure: The figure that gets the bars.
        series: The bars' name, colour and values.
        value_template: Plotly's template for a value in the text shown on hovering, e.g. "%{x:,.1f} MiB".
    """
    figure.add_bar(
        orientation="h",
        y=list(series.values),
        x=list(series.values.values()),
        name=series.name,
        marker_color=series.colour,
        hovertemplate=f"%{{y}}: {value_template}<extra>{series.name}</extra>",
    )
    set_row_axis(figure)


def set_row_axis(figure: go.Figure) -> None:
    """Make the vertical axis an axis of named rows, the first on top."""
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)


def height_for_rows(num_rows: int) -> int:
    """Return the height in pixels of a figure with `num_rows` rows."""
    return 120 + 38 * num_rows
