"""What the figures of all pages share.

Text, grid and background have the page's colours, light or dark; black and white stand for its ink and its panels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import plotly.graph_objects as go

from partrain.report.style import COLOURS

_DASHES = ("solid", "dash", "dot")


class Plot(NamedTuple):
    """A figure on a page, `height` pixels high; a `square` one about as high as it is wide, up to that.

    `width`: fewest pixels that it can be read at; a narrower screen scrolls it sideways.
    """

    title: str
    caption: str
    figure: go.Figure
    height: int = 340
    square: bool = False
    width: int = 0


def line_style(index: int) -> dict[str, Any]:
    """Colour and dash of the line with this number."""
    return {"color": COLOURS[index % len(COLOURS)], "dash": _DASHES[index // len(COLOURS) % len(_DASHES)], "width": 2}


def make_figure(x: str, y: str, **layout: Any) -> go.Figure:
    """An empty figure with named axes."""
    figure = go.Figure(layout={"template": None, "margin": {"l": 8, "r": 16, "t": 12, "b": 8}, **layout})
    figure.update_xaxes(title={"text": x, "standoff": 8, "font_size": 13}, automargin=True)
    figure.update_yaxes(title={"text": y, "standoff": 8, "font_size": 13}, automargin=True)
    figure.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "traceorder": "normal"})
    return figure


def epoch_axis(figure: go.Figure, last: float) -> None:
    """Whole epochs alone on the axis."""
    figure.update_xaxes(**({"dtick": 1} if last <= 10 else {"nticks": 10}), tickformat="d")


def add_rows(figure: go.Figure, rows: Mapping[str, float], name: str, colour: str, text: str) -> None:
    """A bar for each of `rows`, which stand one under another; `text` says a value, as plotly's templates do."""
    figure.add_bar(
        orientation="h",
        y=list(rows),
        x=list(rows.values()),
        name=name,
        marker_color=colour,
        hovertemplate=f"%{{y}}: {text}<extra>{name}</extra>",
    )
    name_rows(figure)


def name_rows(figure: go.Figure) -> None:
    """Let the vertical axis name rows, the first on top."""
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)


def rows_height(rows: int) -> int:
    """Of a figure with so many rows, in pixels."""
    return 120 + 38 * rows
