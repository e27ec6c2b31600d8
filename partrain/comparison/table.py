"""One row per run, as CSV, Markdown and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from partrain.comparison.grid import Cell

_PER_PROCESS = (
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
    """A run that was done, or failed. `results`: what its results.json says, empty if it failed."""

    cell: Cell
    repeat: int
    seed: int
    results: dict[str, Any]
    outcome: str = "done"

    @property
    def folder(self) -> str:
        """Within the comparison's."""
        return run_folder(self.cell, self.repeat)


def run_folder(cell: Cell, repeat: int) -> str:
    return f"runs/{cell.name}/{repeat}"


def seconds_to_accuracy(accuracy: float, results: Mapping[str, Any]) -> float | None:
    """Seconds from the first step until the test accuracy was `accuracy` or more; None if it never was."""
    reached = (point["seconds"] for point in results["accuracy_curve"] if point["test_accuracy"] >= accuracy)
    return next(reached, None)


def run_row(run: CellRun, accuracies: Sequence[float]) -> dict[str, Any]:
    """The table's row: fractions, seconds and bytes; None where a failed run has nothing to say.

    Of memory, `_total` is the sum over the processes, the others are the largest process's.
    """
    values: dict[str, Any] = asdict(run.cell) | {"repeat": run.repeat, "seed": run.seed}
    facts = ("test_accuracy", "train_seconds", "step_seconds", "samples_per_second")
    values |= {name: run.results.get(name) for name in facts}
    for accuracy in accuracies:
        values[f"seconds_to_{accuracy:g}"] = seconds_to_accuracy(accuracy, run.results) if run.results else None
    processes = run.results.get("segments", [])
    for name in ("peak_memory_bytes", "parameter_bytes", "optimizer_state_bytes"):
        found = [process[name] for process in processes]
        values[name] = max(found, default=None)
        if name == "peak_memory_bytes":
            values["peak_memory_bytes_total"] = sum(found) or None
    values |= {name: run.results.get(name) for name in ("traffic_bytes", "traffic_bytes_per_step", "utilization")}
    return values | {"steps": run.results.get("steps"), "outcome": run.outcome}


def run_json_row(run: CellRun, accuracies: Sequence[float]) -> dict[str, Any]:
    """The row, with a list over the processes for what each of them took, and the accuracy against time."""
    processes = run.results.get("segments", [])
    return run_row(run, accuracies) | {
        "folder": run.folder,
        "processes": {name: [process[name] for process in processes] for name in _PER_PROCESS},
        "accuracy_curve": run.results.get("accuracy_curve", []),
    }
