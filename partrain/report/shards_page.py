"""The page of a sharded training: which device computed which model when, and how busy it was."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partrain import checkpoint
from partrain.report.canvas import Plot, line_style, make_figure, name_rows, rows_height
from partrain.report.page import environment, make_table
from partrain.report.plots import COLOURS
from partrain.report.quantities import duration
from partrain.report.sections import Stat
from partrain.report.settings import PAGE

_SHOWN = 60  # units of a device that are drawn: more could not be told apart
_PARTS = 60  # of the training, in each of which it is told how busy a device was


@dataclass(frozen=True)
class Row:
    """A unit on the time line: where and what it was, and from when to when it was computed, in seconds from the start."""

    device: str
    model: int
    step: int
    shard: int
    kind: str
    begin: float
    end: float


def read_timeline(path: Path) -> list[Row]:
    """All units, by when they began."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    start = min((float(row["begin"]) for row in found), default=0.0)
    rows = [
        Row(
            f"device {row['device']}",
            int(row["model"]),
            int(row["step"]),
            int(row["shard"]),
            row["kind"],
            float(row["begin"]) - start,
            float(row["end"]) - start,
        )
        for row in found
    ]
    return sorted(rows, key=lambda row: row.begin)


def write_shards_page(folder: Path, timeline: Path, names: Sequence[str]) -> Path:
    """Write report.html into `folder`. `names`: of the models, by their numbers."""
    rows = read_timeline(timeline)
    devices = sorted({row.device for row in rows})
    seconds = max((row.end for row in rows), default=0.0)
    computed = sum(row.end - row.begin for row in rows)
    busy = computed / (seconds * len(devices)) if seconds else 0.0
    stats = [
        Stat("devices" if len(devices) != 1 else "device", f"{len(devices)}", f"busy {busy:.1%} of the time"),
        Stat(
            "models", f"{len(names)}", f"{len(rows):,} units of {len({(row.model, row.shard) for row in rows})} shards"
        ),
        Stat("time", duration(seconds), f"{computed:,.1f} s of computation"),
    ]
    text = (
        environment()
        .get_template("shards.html.j2")
        .render(
            title=f"{len(names)} models in shards",
            refresh=None,
            stats=stats,
            plots=[_timeline(rows, devices, names), _busy(rows, devices, seconds)] if rows else [],
            models=make_table(_models(rows, names)),
        )
    )
    checkpoint.write_text(folder / PAGE, text)
    return folder / PAGE


def _timeline(rows: Sequence[Row], devices: Sequence[str], names: Sequence[str]) -> Plot:
    """Devices and time, a colour for each model: from the middle of the training, where there are too many units."""
    middle = max(0, (len(rows) - _SHOWN * len(devices)) // 2)
    shown = rows[middle : middle + _SHOWN * len(devices)]
    figure = make_figure("seconds", "", showlegend=len(names) <= 20)
    for model in sorted({row.model for row in shown}):
        own = [row for row in shown if row.model == model]
        text = [f"{names[model]}, step {row.step}, shard {row.shard}, {row.kind}" for row in own for _ in range(3)]
        figure.add_scatter(
            x=[moment for row in own for moment in (row.begin, row.end, None)],
            y=[place for row in own for place in (row.device, row.device, None)],
            mode="lines",
            name=names[model],
            line={"color": COLOURS[model % len(COLOURS)], "width": 22 if model < len(COLOURS) else 14},
            text=text,
            hovertemplate="%{text}<br>%{x:.3f} s<extra></extra>",
        )
    name_rows(figure)
    rows_shown = {"categoryarray": list(devices), "range": [len(devices) - 0.5, -0.5], "autorange": False}
    figure.update_yaxes(categoryorder="array", **rows_shown)
    part = "" if len(shown) == len(rows) else f", {len(shown):,} units from the middle of {len(rows):,}"
    caption = f"What each device computed when, a colour for each model{part}; between two bars it waited."
    return Plot("Devices over time", caption, figure, rows_height(len(devices)))


def _busy(rows: Sequence[Row], devices: Sequence[str], seconds: float) -> Plot:
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
    return Plot("Busy", "How much of the time each device computed; the rest it waited.", figure)


def _models(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    table = []
    for number, name in enumerate(names):
        own = [row for row in rows if row.model == number]
        steps, spent = len({row.step for row in own}), sum(row.end - row.begin for row in own)
        table.append(
            {
                "model": name,
                "shards": 1 + max((row.shard for row in own), default=-1),
                "steps": steps,
                "computed, s": round(spent, 2),
                "ms a step": round(1000 * spent / steps, 1) if steps else None,
                "ended after, s": round(max((row.end for row in own), default=0.0), 2),
            }
        )
    return table
