"""A model of what a training step costs: a few constants of the machine, fitted to measured cells, checked on others."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cost_model.step import NAMES, Constants, step_counts
from cost_model.work import Setting, System, Work, traffic_bytes
from partrain.comparison.grid import SEQUENTIAL, Cell

Row = Mapping[str, Any]

# where the search begins: about what one core of a server takes, and gloo on one machine
_START = Constants(
    flop=4e-12,
    weight=2e-10,
    activation=2e-10,
    optimizer=5e-10,
    layer=5e-5,
    fork=1e-5,
    step=3e-4,
    microbatch=3e-4,
    unit=5e-4,
    message=5e-5,
    byte=3e-10,
    round=1e-4,
    collective_byte=5e-10,
)
_SPAN = 1e5  # a constant is looked for between its start over this and its start times this


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of a step on its longest way: computing, moving bytes and waiting for them, waiting for other stages."""

    compute: float
    communication: float
    bubble: float

    @property
    def seconds(self) -> float:
        return self.compute + self.communication + self.bubble


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Constants fitted under `setting`.

    `spread`: each fitted constant's standard error as a factor, 1.1 for 10 % up or down. Of those named in `unknown`, no
    cell that was fitted tells anything.
    """

    constants: Constants
    setting: Setting
    spread: dict[str, float] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    def predict(self, cell: Cell) -> Step:
        """Seconds per step of `cell`, which need not have been measured."""
        return self.step(self.setting.work(cell), self.setting.system)

    def traffic(self, cell: Cell) -> float:
        """Bytes per step that all processes together send."""
        return traffic_bytes(self.setting.work(cell), self.setting.system)

    def step(self, work: Work, system: System) -> Step:
        """Seconds per step of any `work` on any `system` of such cores and links.

        Raises:
            ValueError: it depends on a constant that could not be fitted.
        """
        counts = step_counts(work, system)
        if lacking := sorted(self.unknown.intersection(_names(np.any(counts, axis=(0, 1))))):
            raise ValueError(
                f"cost model: strategy={work.strategy} depends on {', '.join(lacking)}, of which no fitted cell tells "
                "anything; add cells of that strategy to those that are fitted"
            )
        parts = counts @ _vector(self.constants)
        compute, communication, bubble = parts[parts.sum(axis=1).argmax()].tolist()
        return Step(compute=compute, communication=communication, bubble=bubble)


def _vector(constants: Constants) -> NDArray[np.float64]:
    return np.array([getattr(constants, name) for name in NAMES])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians over a cell's repeats."""

    seconds: float
    traffic: float | None


def measured(rows: Iterable[Row]) -> dict[Cell, Measured]:
    """What a comparison's table says of its cells, without failed runs and sequential ones, which have no common step."""
    speeds: dict[Cell, list[float]] = {}
    traffic: dict[Cell, list[float]] = {}
    for row in rows:
        if row["strategy"] != SEQUENTIAL and row["samples_per_second"]:
            cell = _cell(row)
            speeds.setdefault(cell, []).append(float(row["samples_per_second"]))
            if row.get("traffic_bytes_per_step") not in (None, ""):
                traffic.setdefault(cell, []).append(float(row["traffic_bytes_per_step"]))
    return {
        cell: Measured(
            seconds=cell.batch_size / statistics.median(values),
            traffic=statistics.median(traffic[cell]) if cell in traffic else None,
        )
        for cell, values in speeds.items()
    }


def _cell(row: Row) -> Cell:
    width, microbatches = row["width"], row["microbatches"]
    return Cell(
        strategy=row["strategy"],
        network=row["network"],
        width=int(width) if width else None,
        segments=int(row["segments"]),
        batch_size=int(row["batch_size"]),
        microbatches=int(microbatches) if microbatches else None,
    )


def fit(rows: Iterable[Row], setting: Setting, pull: float = 0.02) -> CostModel:
    """The constants under which the predicted times are nearest to those of a table's `rows`: least squares of their logs.

    `pull` holds constants of which the cells tell next to nothing near plausible ones: a constant that is a factor of e
    away from its own weighs as much as a cell whose time is predicted wrong by this fraction.

    Raises:
        ValueError: there are fewer cells than constants that they depend on; the message says how many are needed.
    """
    cells = measured(rows)
    ways = [step_counts(setting.work(cell), setting.system).sum(axis=1) for cell in cells]
    counts = np.zeros((len(ways), max(map(len, ways), default=1), len(NAMES)))
    for number, way in enumerate(ways):
        counts[number, : len(way)] = way
    used: NDArray[np.bool_] = np.any(counts, axis=(0, 1))
    if not cells or len(cells) < used.sum():
        names = _names(used)
        raise ValueError(
            f"cost model: {len(cells)} cells are too few to fit {len(names)} constants ({', '.join(names)}); measure at "
            f"least {max(1, len(names))}: more widths, batch sizes or numbers of segments"
        )
    target = np.log([each.seconds for each in cells.values()])
    start = np.log(_vector(_START))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        constants = np.exp(start)
        constants[used] = np.exp(logs)
        return np.concatenate([np.log((counts @ constants).max(axis=1)) - target, pull * (logs - start[used])])

    span = np.log(_SPAN)
    found = least_squares(residuals, start[used], bounds=(start[used] - span, start[used] + span))
    fitted = start.copy()
    fitted[used] = found.x
    variance = 2 * found.cost / max(1, len(cells) - used.sum()) * np.diag(np.linalg.pinv(found.jac.T @ found.jac))
    return CostModel(
        constants=Constants(**dict(zip(NAMES, np.exp(fitted).tolist(), strict=True))),
        setting=setting,
        spread=dict(zip(_names(used), np.exp(np.sqrt(variance)).tolist(), strict=True)),
        unknown=frozenset(_names(~used)),
    )


def _names(chosen: NDArray[np.bool_]) -> list[str]:
    return [NAMES[number] for number in np.flatnonzero(chosen)]


def check(model: CostModel, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """A row per measured cell: seconds and bytes per step, predicted and measured, and the predicted seconds' parts."""
    found = []
    for cell, truth in measured(rows).items():
        step = model.predict(cell)
        found.append(
            asdict(cell)
            | {
                "measured_seconds": truth.seconds,
                "predicted_seconds": step.seconds,
                "predicted_over_measured": step.seconds / truth.seconds,
                "compute_seconds": step.compute,
                "communication_seconds": step.communication,
                "bubble_seconds": step.bubble,
                "measured_traffic_bytes": truth.traffic,
                "predicted_traffic_bytes": model.traffic(cell),
            }
        )
    return found


def errors(checked: Sequence[Row]) -> dict[str, float]:
    """How far off the predictions are: the larger of predicted and measured over the smaller, minus 1.

    Raises:
        ValueError: nothing was checked.
    """
    if not checked:
        raise ValueError("cost model: no measured cell to check; hold out one that was measured")
    ratios = [row["predicted_over_measured"] for row in checked]
    off = [max(ratio, 1 / ratio) - 1 for ratio in ratios]
    return {"cells": len(off), "median_error": statistics.median(off), "worst_error": max(off)}


def held_out(rows: Iterable[Row], **values: Any) -> tuple[list[Row], list[Row]]:
    """The rows to fit, and those that have all `values`, e.g. segments=4, to check the fit on."""
    kept: list[Row] = []
    held: list[Row] = []
    for row in rows:
        matches = all(str(row[name]) == str(value) for name, value in values.items())
        (held if matches else kept).append(row)
    return kept, held
