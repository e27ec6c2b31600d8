"""The page of a sharded training: which device computed which model when, and how busy it was."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from partrain.report.formatting import format_duration
from partrain.report.page import Stat, make_table, template_environment
from partrain.report.plotly_figures import Plot, height_for_rows, line_style, make_figure, set_row_axis
from partrain.report.style import COLOURS
from partrain.shards.timeline import TimelineRow, read_timeline
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE, TIMELINE

_PARTS = 60  # of the training, in each of which it is told how busy a device was


def write_shards_page(folder: Path, units_per_device: int = 60) -> Path:
    """Write report.html into the `folder` of a sharded training.

    `units_per_device`: how many are drawn on the time line; more could not be told apart.
    """
    rows = read_timeline(folder / TIMELINE)
    devices = sorted({row.device for row in rows})
    names = list(_by_model(rows))
    seconds = max((row.end for row in rows), default=0.0)
    text = (
        template_environment()
        .get_template("shards/templates/shards.html.j2")
        .render(
            title=f"{len(names)} model{'s' * (len(names) != 1)} in shards",
            refresh=None,
            stats=_stats(rows, devices, names, seconds),
            plots=[_timeline(rows, devices, names, units_per_device * len(devices)), _busy(rows, devices, seconds)]
            if rows
            else [],
            models=make_table(_models(rows)),
        )
    )
    checkpoint.write_text(folder / PAGE, text)
    return folder / PAGE


def _stats(rows: Sequence[TimelineRow], devices: Sequence[str], names: Sequence[str], seconds: float) -> list[Stat]:
    computed = sum(row.end - row.begin for row in rows)
    busy = computed / (seconds * len(devices)) if seconds else 0.0
    shards = len({(row.model, row.shard) for row in rows})
    path = max((sum(row.end - row.begin for row in own) for own in _by_model(rows).values()), default=0.0)
    share = computed / len(devices) if devices else 0.0
    longest, equal = format_duration(path), format_duration(share)
    bound = f"{longest} (the longest model's units) and {equal} (an equal share of all computation)"
    sessions = 1 + max((row.session for row in rows), default=0)
    return [
        Stat("devices" if len(devices) != 1 else "device", f"{len(devices)}", f"busy {busy:.1%} of the time"),
        Stat("models", f"{len(names)}", f"{len(rows):,} units of {shards} shards"),
        Stat("time" if sessions == 1 else f"time, {sessions} sessions", format_duration(seconds), f"at least {bound}"),
    ]


def _timeline(rows: Sequence[TimelineRow], devices: Sequence[str], names: Sequence[str], most: int) -> Plot:
    """Devices and time, a colour for each model: from the middle of the training, where there are more than `most` units."""
    middle = max(0, (len(rows) - most) // 2)
    shown = rows[middle : middle + most]
    figure = make_figure("seconds", "", showlegend=len(names) <= 20)
    drawn = _by_model(shown)
    for number, name in enumerate(names):
        if name not in drawn:
            continue
        own = drawn[name]
        text = [f"{name}, step {row.step}, shard {row.shard}, {row.kind}" for row in own for _ in range(3)]
        figure.add_scatter(
            x=[moment for row in own for moment in (row.begin, row.end, None)],
            y=[place for row in own for place in (row.device, row.device, None)],
            mode="lines",
            name=name,
            line={"color": COLOURS[number % len(COLOURS)], "width": 22 if number < len(COLOURS) else 14},
            text=text,
            hovertemplate="%{text}<br>%{x:.3f} s<extra></extra>",
        )
    _draw_sessions(figure, shown)
    set_row_axis(figure)
    rows_shown = {"categoryarray": list(devices), "range": [len(devices) - 0.5, -0.5], "autorange": False}
    figure.update_yaxes(categoryorder="array", **rows_shown)
    part = "" if len(shown) == len(rows) else f", {len(shown):,} units from the middle of {len(rows):,}"
    caption = f"What each device computed when, a colour for each model{part}; between two bars it waited."
    return Plot("Devices over time", caption, figure, height_for_rows(len(devices)))


def _busy(rows: Sequence[TimelineRow], devices: Sequence[str], seconds: float) -> Plot:
    """How much of its time each device computed, from the beginning to the end."""
    figure = make_figure("seconds", "busy, %", showlegend=True)
    length = seconds / _PARTS
    for number, device in enumerate(devices):
        spent = [0.0] * _PARTS
        for row in rows:
            if row.device == device:
                for part in range(int(row.begin / length), min(_PARTS, int(row.end / length) + 1)):
                    spent[part] += max(0.0, min(row.end, (part + 1) * length) - max(row.begin, part * length))
        figure.add_scatter(
            x=[(part + 0.5) * length for part in range(_PARTS)],
            y=[100 * each / length for each in spent],
            mode="lines",
            name=device,
            line=line_style(number),
            hovertemplate="%{x:.1f} s: %{y:.1f} %<extra>" + device + "</extra>",
        )
    figure.update_yaxes(range=[0, 105])
    _draw_sessions(figure, rows)
    return Plot("Busy", "How much of the time each device computed; the rest it waited.", figure)


def _draw_sessions(figure: Figure, rows: Sequence[TimelineRow]) -> None:
    """A line where the training was stopped and gone on with."""
    for before, row in pairwise(rows):
        if row.session != before.session:
            figure.add_vline(row.begin, line_dash="dot", annotation_text="gone on with")


def _by_model(rows: Sequence[TimelineRow]) -> dict[str, list[TimelineRow]]:
    """The rows of each model, in the order in which they came."""
    found: dict[str, list[TimelineRow]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(row)
    return found


def _models(rows: Sequence[TimelineRow]) -> list[dict[str, Any]]:
    table = []
    for name, own in _by_model(rows).items():
        steps, spent = len({row.step for row in own}), sum(row.end - row.begin for row in own)
        table.append(
            {
                "model": name,
                "shards": 1 + max(row.shard for row in own),
                "steps": steps,
                "computed, s": round(spent, 2),
                "ms a step": round(1000 * spent / steps, 1),
                "ended after, s": round(max(row.end for row in own), 2),
            }
        )
    return table
