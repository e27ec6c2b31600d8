"""The page of a sharded training: which device computed which model when, and how busy every device was."""

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from partrain.report.formatting import format_duration, format_quantity
from partrain.report.page import Stat, make_table, template_environment
from partrain.report.plotly_figures import Plot, height_for_rows, line_style, make_figure, set_row_axis
from partrain.report.style import COLOURS
from partrain.shards.timeline import TimelineRow, read_timeline
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE, TIMELINE

_INTERVALS = 60  # equal parts of the training, for each of which a device's utilisation is drawn
_MOST_LEGEND_ENTRIES = 20  # models; with more, the legend would be larger than the figure
_BAR_WIDTH, _NARROW_BAR_WIDTH = 22, 14  # pixels; a model whose colour is used a second time has narrow bars


def write_shards_page(folder: Path, units_per_device: int = 60) -> Path:
    """Write report.html into the `folder` of a sharded training, and return its path.

    Args:
        folder: The folder with the training's timeline.csv.
        units_per_device: How many units per device the timeline shows at most. More could not be told apart.
    """
    page = _ShardsPage(read_timeline(folder / TIMELINE))
    text = (
        template_environment()
        .get_template("shards/templates/shards.html.j2")
        .render(
            title=f"{format_quantity(len(page.models), 'model')} in shards",
            refresh=None,
            stats=page.stats(),
            plots=page.plots(units_per_device),
            models=make_table(page.model_rows()),
        )
    )
    checkpoint.write_text(folder / PAGE, text)
    return folder / PAGE


class _ShardsPage:
    """The contents of the page, computed from all rows of a timeline."""

    def __init__(self, rows: Sequence[TimelineRow]) -> None:
        self.rows = rows
        self.devices = sorted({row.device for row in rows})
        self.models = _by_model(rows)
        self.seconds = max((row.end for row in rows), default=0.0)
        """How long the training took."""

    # ---- The numbers at the top.

    def stats(self) -> list[Stat]:
        """Return the numbers of devices and models and the time, each with a note."""
        return [self._device_stat(), self._model_stat(), self._time_stat()]

    def _device_stat(self) -> Stat:
        count = len(self.devices)
        busy = _computed_seconds(self.rows) / (self.seconds * count) if self.seconds else 0.0
        return Stat("devices" if count != 1 else "device", f"{count}", f"busy {busy:.1%} of the time")

    def _model_stat(self) -> Stat:
        num_shards = len({(row.model, row.shard) for row in self.rows})
        return Stat("models", f"{len(self.models)}", f"{len(self.rows):,} units of {num_shards} shards")

    def _time_stat(self) -> Stat:
        longest_model = max((_computed_seconds(rows) for rows in self.models.values()), default=0.0)
        equal_share = _computed_seconds(self.rows) / len(self.devices) if self.devices else 0.0
        bounds = (
            f"{format_duration(longest_model)} (the longest model's units, one after another) "
            f"or {format_duration(equal_share)} (an equal share of all computation)"
        )
        sessions = 1 + max((row.session for row in self.rows), default=0)
        label = "time" if sessions == 1 else f"time, {sessions} sessions"
        return Stat(label, format_duration(self.seconds), f"no schedule takes less than {bounds}")

    # ---- The figures.

    def plots(self, units_per_device: int) -> list[Plot]:
        """Return the page's figures, none if no unit was computed."""
        if not self.rows:
            return []
        return [self._timeline_plot(units_per_device * len(self.devices)), self._utilisation_plot()]

    def _timeline_plot(self, most_units: int) -> Plot:
        """Draw a bar per unit, from the middle of the training where there are more than `most_units` units."""
        first = max(0, (len(self.rows) - most_units) // 2)
        shown = self.rows[first : first + most_units]
        shown_by_model = _by_model(shown)

        figure = make_figure("seconds", "", showlegend=len(self.models) <= _MOST_LEGEND_ENTRIES)
        for number, model in enumerate(self.models):
            if model in shown_by_model:
                _draw_units(figure, number, model, shown_by_model[model])
        _draw_sessions(figure, shown)
        set_row_axis(figure)
        device_axis = {"categoryarray": self.devices, "range": [len(self.devices) - 0.5, -0.5], "autorange": False}
        figure.update_yaxes(categoryorder="array", **device_axis)

        caption = "A bar is a unit in the colour of its model. Between two bars the device waited."
        if len(shown) < len(self.rows):
            caption += f" The figure shows {len(shown):,} units from the middle of {len(self.rows):,}."
        return Plot("Devices over time", caption, figure, height_for_rows(len(self.devices)))

    def _utilisation_plot(self) -> Plot:
        """Draw a line per device: in each of equal intervals of the training, for how much of it the device computed."""
        figure = make_figure("seconds", "utilisation, %", showlegend=True)
        length = self.seconds / _INTERVALS
        for number, device in enumerate(self.devices):
            computed = _computed_by_interval([row for row in self.rows if row.device == device], length)
            figure.add_scatter(
                x=[(interval + 0.5) * length for interval in range(_INTERVALS)],
                y=[100 * seconds / length for seconds in computed],
                mode="lines",
                name=device,
                line=line_style(number),
                hovertemplate="%{x:.1f} s: %{y:.1f} %<extra>" + device + "</extra>",
            )
        figure.update_yaxes(range=[0, 105])
        _draw_sessions(figure, self.rows)
        return Plot("Device utilisation", "The part of the time for which a device computed.", figure)

    # ---- The table.

    def model_rows(self) -> list[dict[str, Any]]:
        """Return a row of the table for each model."""
        return [_model_row(model, rows) for model, rows in self.models.items()]


def _by_model(rows: Sequence[TimelineRow]) -> dict[str, list[TimelineRow]]:
    """Return the rows of each model, with models in the order of their first rows."""
    by_model: dict[str, list[TimelineRow]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row)
    return by_model


def _computed_seconds(rows: Sequence[TimelineRow]) -> float:
    return sum(row.seconds for row in rows)


def _computed_by_interval(rows: Sequence[TimelineRow], length: float) -> list[float]:
    """Return the seconds for which the units of `rows` were computed, in each interval of `length` seconds."""
    computed = [0.0] * _INTERVALS
    for row in rows:
        first, last = int(row.begin / length), min(_INTERVALS - 1, int(row.end / length))
        for interval in range(first, last + 1):
            begin, end = interval * length, (interval + 1) * length
            computed[interval] += max(0.0, min(row.end, end) - max(row.begin, begin))
    return computed


def _draw_units(figure: Figure, number: int, model: str, rows: Sequence[TimelineRow]) -> None:
    """Draw the units of model `number` as bars, which are one line with gaps: plotly draws that fastest."""
    begin_end_gap = [(row.begin, row.end, None) for row in rows]
    devices = [(row.device, row.device, None) for row in rows]
    labels = [(f"{model}, step {row.step}, shard {row.shard}, {row.passes}",) * 3 for row in rows]
    width = _BAR_WIDTH if number < len(COLOURS) else _NARROW_BAR_WIDTH
    figure.add_scatter(
        x=_flatten(begin_end_gap),
        y=_flatten(devices),
        text=_flatten(labels),
        mode="lines",
        name=model,
        line={"color": COLOURS[number % len(COLOURS)], "width": width},
        hovertemplate="%{text}<br>%{x:.3f} s<extra></extra>",
    )


def _flatten(triples: Iterable[tuple[Any, ...]]) -> list[Any]:
    return list(chain.from_iterable(triples))


def _draw_sessions(figure: Figure, rows: Sequence[TimelineRow]) -> None:
    """Draw a vertical line wherever the training was stopped and resumed."""
    for before, row in pairwise(rows):
        if row.session != before.session:
            figure.add_vline(row.begin, line_dash="dot", annotation_text="resumed")


def _model_row(model: str, rows: Sequence[TimelineRow]) -> dict[str, Any]:
    steps, seconds = len({row.step for row in rows}), _computed_seconds(rows)
    return {
        "model": model,
        "shards": 1 + max(row.shard for row in rows),
        "steps": steps,
        "computation, s": round(seconds, 2),
        "ms per step": round(1000 * seconds / steps, 1),
        "finished after, s": round(max(row.end for row in rows), 2),
    }
