"""A model of the cost of a training step: a few constants of the machine, fitted to measured cells, checked on others."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cost_model.step_counts import NAMES, Constants, step_counts
from cost_model.workload import ComparisonSetup, System, Workload, traffic_bytes
from partrain.comparison.grid import SEQUENTIAL, Cell
from partrain.errors import UserError

Row = Mapping[str, Any]
"""A row of a comparison's table.csv."""

# The constants that the fit starts from: about those of one core of a server, and of gloo on one machine.
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
_SPAN = 1e5
"""The factor by which a fitted constant may be below or above its start."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The seconds of a step on its longest path."""

    compute: float
    communication: float
    """Seconds of moving bytes and waiting for them."""
    bubble: float
    """Seconds of waiting for other stages."""

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole step."""
        return self.compute + self.communication + self.bubble


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """A prediction of a step's seconds and bytes, from constants that were fitted under the conditions of `setup`."""

    constants: Constants
    setup: ComparisonSetup
    error_factors: dict[str, float] = field(default_factory=dict)
    """The standard error of each fitted constant as a factor: 1.1 for 10 % up or down."""
    unfitted: frozenset[str] = frozenset()
    """Names of constants that no fitted cell depends on."""

    def predict(self, cell: Cell) -> StepTime:
        """Return the predicted time of a step of `cell`, which need not have been measured."""
        return self.step_time(self.setup.workload(cell), self.setup.system)

    def predict_traffic(self, cell: Cell) -> float:
        """Return the predicted bytes that all processes together send in a step of `cell`."""
        return traffic_bytes(self.setup.workload(cell), self.setup.system)

    def step_time(self, workload: Workload, system: System) -> StepTime:
        """Return the predicted time of a step of any `workload` on any `system` of such cores and links.

        Raises:
            UserError: If the time depends on a constant that could not be fitted.
        """
        counts = step_counts(workload, system)
        missing = sorted(self.unfitted.intersection(_names(np.any(counts, axis=(0, 1)))))
        if missing:
            raise UserError(
                f"Cost model: strategy={workload.strategy} depends on {', '.join(missing)}, on which no fitted cell "
                "depends; add cells of that strategy to the fitted ones"
            )
        paths = counts @ _vector(self.constants)
        compute, communication, bubble = paths[paths.sum(axis=1).argmax()].tolist()
        return StepTime(compute=compute, communication=communication, bubble=bubble)


def _vector(constants: Constants) -> NDArray[np.float64]:
    return np.array([getattr(constants, name) for name in NAMES])


def _names(is_chosen: NDArray[np.bool_]) -> list[str]:
    return [NAMES[number] for number in np.flatnonzero(is_chosen)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The medians over a cell's repeats."""

    seconds: float
    """Seconds per step."""
    traffic: float | None
    """Bytes that all processes together send per step, None if they were not counted."""


def median_measurements(rows: Iterable[Row]) -> dict[Cell, Measurement]:
    """Return the measurement of each cell in a comparison's table.

    Failed runs are left out, and so are sequential ones, whose segments have no step in common.
    """
    speeds: dict[Cell, list[float]] = {}
    traffic: dict[Cell, list[float]] = {}
    for row in rows:
        if row["strategy"] == SEQUENTIAL or not row["samples_per_second"]:
            continue
        cell = _cell(row)
        speeds.setdefault(cell, []).append(float(row["samples_per_second"]))
        if row.get("traffic_bytes_per_step") not in (None, ""):
            traffic.setdefault(cell, []).append(float(row["traffic_bytes_per_step"]))
    return {
        cell: Measurement(
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


def fit(rows: Iterable[Row], setup: ComparisonSetup, pull: float = 0.02) -> CostModel:
    """Fit the constants to the measured cells of a table.

    The fit minimises the squared differences between the logarithms of predicted and measured seconds.

    Args:
        rows: The rows of a comparison's table.
        setup: The conditions under which they were measured.
        pull: Holds constants that the cells hardly determine near plausible values. A constant that is a factor of e
            away from its start weighs as much as a cell whose time is predicted wrong by this fraction.

    Raises:
        UserError: If there are fewer cells than constants that they depend on.
    """
    measurements = median_measurements(rows)
    counts = _path_counts(measurements, setup)
    is_used: NDArray[np.bool_] = np.any(counts, axis=(0, 1))
    _require_enough_cells(len(measurements), _names(is_used))
    log_seconds = np.log([measurement.seconds for measurement in measurements.values()])
    log_start = np.log(_vector(_START))

    def residuals(log_constants: NDArray[np.float64]) -> NDArray[np.float64]:
        constants = np.exp(log_start)
        constants[is_used] = np.exp(log_constants)
        errors = np.log((counts @ constants).max(axis=1)) - log_seconds
        return np.concatenate([errors, pull * (log_constants - log_start[is_used])])

    log_span, log_used_start = np.log(_SPAN), log_start[is_used]
    solution = least_squares(residuals, log_used_start, bounds=(log_used_start - log_span, log_used_start + log_span))
    log_constants = log_start.copy()
    log_constants[is_used] = solution.x
    degrees_of_freedom = max(1, len(measurements) - is_used.sum())
    variance = 2 * solution.cost / degrees_of_freedom * np.diag(np.linalg.pinv(solution.jac.T @ solution.jac))
    return CostModel(
        constants=Constants(**dict(zip(NAMES, np.exp(log_constants).tolist(), strict=True))),
        setup=setup,
        error_factors=dict(zip(_names(is_used), np.exp(np.sqrt(variance)).tolist(), strict=True)),
        unfitted=frozenset(_names(~is_used)),
    )


def _path_counts(cells: Iterable[Cell], setup: ComparisonSetup) -> NDArray[np.float64]:
    """Return the counts of each path through each cell's step, [cells, paths, constants], padded with zeros."""
    paths = [step_counts(setup.workload(cell), setup.system).sum(axis=1) for cell in cells]
    most_paths = max((len(cell_paths) for cell_paths in paths), default=1)
    counts = np.zeros((len(paths), most_paths, len(NAMES)))
    for number, cell_paths in enumerate(paths):
        counts[number, : len(cell_paths)] = cell_paths
    return counts


def _require_enough_cells(num_cells: int, constants: Sequence[str]) -> None:
    """Raise `UserError` unless there are as many cells as constants to fit, and at least one."""
    if num_cells and num_cells >= len(constants):
        return
    raise UserError(
        f"Cost model: {num_cells} cells are too few to fit {len(constants)} constants ({', '.join(constants)}); measure "
        f"at least {max(1, len(constants))}: more widths, batch sizes or numbers of segments"
    )


def compare_with_measured(model: CostModel, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return a row for each measured cell: its seconds and bytes per step, predicted and measured."""
    compared = []
    for cell, measurement in median_measurements(rows).items():
        step = model.predict(cell)
        compared.append(
            asdict(cell)
            | {
                "measured_seconds": measurement.seconds,
                "predicted_seconds": step.seconds,
                "predicted_over_measured": step.seconds / measurement.seconds,
                "compute_seconds": step.compute,
                "communication_seconds": step.communication,
                "bubble_seconds": step.bubble,
                "measured_traffic_bytes": measurement.traffic,
                "predicted_traffic_bytes": model.predict_traffic(cell),
            }
        )
    return compared


def prediction_errors(compared: Sequence[Row]) -> dict[str, float]:
    """Return how far predicted seconds are from measured ones, over the rows of `compare_with_measured`.

    The error of a cell is the larger of the two over the smaller, minus 1.

    Raises:
        UserError: If there is no row.
    """
    if not compared:
        raise UserError("Cost model: there is no measured cell to check; hold out one that was measured")
    ratios = [row["predicted_over_measured"] for row in compared]
    errors = [max(ratio, 1 / ratio) - 1 for ratio in ratios]
    return {"cells": len(errors), "median_error": statistics.median(errors), "worst_error": max(errors)}


def split_held_out(rows: Iterable[Row], **values: Any) -> tuple[list[Row], list[Row]]:
    """Split rows into those to fit and those to check the fit on: the ones with all `values`, such as segments=4."""
    fitted: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        is_held_out = all(str(row[name]) == str(value) for name, value in values.items())
        (held_out if is_held_out else fitted).append(row)
    return fitted, held_out
