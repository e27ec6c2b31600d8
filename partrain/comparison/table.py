"""The runs of a comparison, and the rows of table.csv, table.md and table.json, one per run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from partrain.comparison.grid import Cell

_PROCESS_QUANTITIES = (
    "device",
    "train_seconds",
    "samples_per_second",
    "utilization",
    "peak_memory_bytes",
    "parameter_bytes",
    "optimizer_state_bytes",
    "sent_bytes",
    "received_bytes",
)


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """A run of a cell of the grid that has finished or failed."""

    cell: Cell
    repeat: int
    seed: int
    results: dict[str, Any]
    """The contents of the run's results.json, or empty if the run failed."""
    outcome: str = "done"
    """The word "done", or the reason why the run failed."""

    @property
    def folder(self) -> str:
        """Return the run's folder, relative to the comparison's."""
        return run_folder(self.cell, self.repeat)


def run_folder(cell: Cell, repeat: int) -> str:
    """Return the folder of a cell's run number `repeat`, relative to the comparison's."""
    return f"runs/{cell.name}/{repeat}"


def seconds_to_accuracy(accuracy: float, results: Mapping[str, Any]) -> float | None:
    """Return the seconds from the first step until the test accuracy was at least `accuracy`, or None if it never was.

    Args:
        accuracy: A fraction, from 0 to 1.
        results: The contents of results.json.
    """
    times = (point["seconds"] for point in results["accuracy_curve"] if point["test_accuracy"] >= accuracy)
    return next(times, None)


def run_row(run: CellRun, accuracies: Sequence[float]) -> dict[str, Any]:
    """Return the run's row of the table, in fractions, seconds and bytes. A failed run has None for each.

    Memory is the largest process's, and the sum over the processes in the column that ends in "_total".

    Args:
        run: The run.
        accuracies: Fractions. For each there is a column with the seconds until the run reached it.
    """
    results = run.results
    row: dict[str, Any] = asdict(run.cell) | {"repeat": run.repeat, "seed": run.seed}
    row |= {key: results.get(key) for key in ("test_accuracy", "train_seconds", "step_seconds", "samples_per_second")}
    row |= {
        f"seconds_to_{accuracy:g}": seconds_to_accuracy(accuracy, results) if results else None
        for accuracy in accuracies
    }
    row |= _memory_columns(results.get("segments", []))
    row |= {key: results.get(key) for key in ("traffic_bytes", "traffic_bytes_per_step", "utilization", "steps")}
    return row | {"outcome": run.outcome}


def _memory_columns(processes: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the columns about memory, given the processes' entries in results.json."""
    peaks = [process["peak_memory_bytes"] for process in processes]
    is_known = peaks and None not in peaks
    return {
        "peak_memory_bytes": max(peaks) if is_known else None,
        "peak_memory_bytes_total": sum(peaks) if is_known else None,
        "parameter_bytes": max((process["parameter_bytes"] for process in processes), default=None),
        "optimizer_state_bytes": max((process["optimizer_state_bytes"] for process in processes), default=None),
    }


def run_json_row(run: CellRun, accuracies: Sequence[float]) -> dict[str, Any]:
    """Return the run's row of table.json: the table's row, lists over the processes, and the accuracy against time."""
    processes = run.results.get("segments", [])
    return run_row(run, accuracies) | {
        "folder": run.folder,
        "processes": {key: [process[key] for process in processes] for key in _PROCESS_QUANTITIES},
        "accuracy_curve": run.results.get("accuracy_curve", []),
    }
