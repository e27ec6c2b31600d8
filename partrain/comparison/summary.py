"""The summary of a comparison: one row per cell over its runs, as numbers and in the form that people read."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from partrain.comparison.grid import Cell
from partrain.comparison.table import CellRun, seconds_to_accuracy
from partrain.report.formatting import format_bytes
from partrain.strategies.settings import PIPELINES

SPEEDUP_PREFIX = "synthetic_speedup_k"
"""The start of the columns of summary.csv that hold a speedup. The number of segments follows."""
_SECONDS_PREFIX = "seconds_to_"

SUMMARY_NOTES = (
    "samples/s: training images per second of the steps of the slowest process, the first step included. An image counts "
    "once per epoch, however many processes see it. Given are the median (least – most) of the repeats.",
    "speedup of synthetic: samples/s of synthetic labels divided by samples/s of this row, in the same repeat and with "
    "the same network, batch size and number of segments. Given is the median over the repeats. Within a repeat the "
    "cells run one after another, in every second repeat backwards.",
    "test accuracy: mean ± standard deviation over the repeats. The repeats differ in their seed, and all strategies use "
    "the same seeds.",
    "peak memory: the most that one process took in any repeat.",
    "traffic per step: bytes that processes send one another and store for one another, median over the repeats.",
    "utilisation: CPU time of all processes as a percentage of the time that all cores had while they trained, median "
    "over the repeats.",
    "seconds to an accuracy: seconds from the first step until the test accuracy was reached, median over the repeats. A "
    "repeat that does not reach it counts as infinite.",
    "best: the number of microbatches with which a pipeline has the highest median of samples/s.",
)


def summarise(runs: Sequence[CellRun], cells: Sequence[Cell], accuracies: Sequence[float]) -> list[dict[str, Any]]:
    """Return a row of numbers per cell, in the table's units: fractions, seconds and bytes. Unknown values are None.

    Args:
        runs: The runs that have finished or failed.
        cells: The cells of the grid.
        accuracies: Fractions. For each there is a column with the seconds until it was reached.
    """
    groups = {cell: _CellRuns.select(cell, runs) for cell in cells}
    best_pipelines = _best_pipelines(groups)
    segment_counts = sorted({cell.segments for cell in cells if cell.strategy == "synthetic"})
    return [
        asdict(cell)
        | {"runs": len(group.finished), "failed": group.num_failed}
        | _speed_columns(group.finished)
        | {f"{SPEEDUP_PREFIX}{segments}": _synthetic_speedup(cell, segments, groups) for segments in segment_counts}
        | _accuracy_columns(group.finished, accuracies)
        | _resource_columns(group.finished)
        | {"best_microbatches": (cell in best_pipelines) if cell.strategy in PIPELINES else None}
        for cell, group in groups.items()
    ]


@dataclass(frozen=True)
class _CellRuns:
    """The runs of one cell."""

    finished: list[CellRun]
    num_failed: int

    @classmethod
    def select(cls, cell: Cell, runs: Sequence[CellRun]) -> "_CellRuns":
        """Return those of `runs` that are the cell's."""
        cell_runs = [run for run in runs if run.cell == cell]
        finished = [run for run in cell_runs if run.results]
        return cls(finished, num_failed=len(cell_runs) - len(finished))


# ---- The columns of a row.


def _speed_columns(finished: Sequence[CellRun]) -> dict[str, float | None]:
    speeds = _known_values(finished, "samples_per_second")
    return {
        "samples_per_second": median_or_none(speeds),
        "samples_per_second_min": min(speeds, default=None),
        "samples_per_second_max": max(speeds, default=None),
    }


def _synthetic_speedup(cell: Cell, segments: int, groups: Mapping[Cell, _CellRuns]) -> float | None:
    """Return how many times as fast as `cell` synthetic labels with `segments` segments are: the median of the repeats.

    A cell is compared with synthetic labels of as many segments as it has, end to end with all.
    """
    if cell.strategy != "end_to_end" and cell.segments != segments:
        return None
    synthetic = Cell(**asdict(cell) | {"strategy": "synthetic", "segments": segments, "microbatches": None})
    if synthetic not in groups:
        return None
    synthetic_speeds = {run.repeat: run.results["samples_per_second"] for run in groups[synthetic].finished}
    ratios = [
        synthetic_speeds[run.repeat] / run.results["samples_per_second"]
        for run in groups[cell].finished
        if run.repeat in synthetic_speeds
    ]
    return median_or_none(ratios)


def _accuracy_columns(finished: Sequence[CellRun], accuracies: Sequence[float]) -> dict[str, float | None]:
    values = _known_values(finished, "test_accuracy")
    columns: dict[str, float | None] = {
        "test_accuracy_mean": statistics.mean(values) if values else None,
        "test_accuracy_sd": statistics.stdev(values) if len(values) > 1 else None,
    }
    for accuracy in accuracies:
        times = [seconds_to_accuracy(accuracy, run.results) for run in finished]
        seconds = median_or_none([math.inf if time is None else time for time in times])
        columns[f"{_SECONDS_PREFIX}{accuracy:g}"] = None if seconds == math.inf else seconds
    return columns


def _resource_columns(finished: Sequence[CellRun]) -> dict[str, float | None]:
    return {
        "peak_memory_bytes": max(map(largest_process_bytes, finished), default=0) or None,
        "traffic_bytes_per_step": median_or_none(_known_values(finished, "traffic_bytes_per_step")),
        "utilization": median_or_none(_known_values(finished, "utilization")),
    }


def _best_pipelines(groups: Mapping[Cell, _CellRuns]) -> set[Cell]:
    """Return the fastest of each set of pipelines that differ only in their number of microbatches."""
    speeds_by_pipeline: dict[Cell, dict[Cell, float]] = {}
    for cell, group in groups.items():
        if cell.strategy in PIPELINES and group.finished:
            pipeline = Cell(**asdict(cell) | {"microbatches": None})
            speed = statistics.median(_known_values(group.finished, "samples_per_second"))
            speeds_by_pipeline.setdefault(pipeline, {})[cell] = speed
    return {max(speeds, key=speeds.__getitem__) for speeds in speeds_by_pipeline.values()}


def _known_values(finished: Sequence[CellRun], key: str) -> list[float]:
    """Return the value of `key` in the results of each run in which it is known."""
    return [run.results[key] for run in finished if run.results[key] is not None]


def largest_process_bytes(run: CellRun) -> int:
    """Return the peak memory of the run's largest process, in bytes, or 0 if the peak of one of them is unknown."""
    peaks = [process["peak_memory_bytes"] for process in run.results["segments"]]
    return 0 if None in peaks else max(peaks)


def median_or_none(values: Sequence[float]) -> float | None:
    """Return the median of `values`, or None if there are none."""
    return statistics.median(values) if values else None


# ---- The form that people read.


def speedup_heading(key: str) -> str:
    """Return the heading of a column with a speedup: "synthetic_speedup_k2" becomes "speedup of synthetic, K = 2"."""
    return f"speedup of synthetic, K = {key.removeprefix(SPEEDUP_PREFIX)}"


def format_summary_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the summary as summary.md shows it. Unknown values are empty."""
    return (
        _format_cell(row)
        | _format_speed(row)
        | _format_accuracy(row)
        | _format_resources(row)
        | _format_seconds_to_accuracies(row)
    )


def _format_cell(row: Mapping[str, Any]) -> dict[str, str]:
    best = ", best" if row["best_microbatches"] else ""
    failed = f", {row['failed']} failed" if row["failed"] else ""
    return {
        "strategy": row["strategy"],
        "network": f"{row['network']} {row['width'] or ''}".strip(),
        "segments K": str(row["segments"]),
        "batch size": str(row["batch_size"]),
        "microbatches": f"{row['microbatches']}{best}" if row["microbatches"] else "",
        "runs": f"{row['runs']}{failed}",
    }


def _format_speed(row: Mapping[str, Any]) -> dict[str, str]:
    speed = ""
    if row["runs"]:
        least, most = row["samples_per_second_min"], row["samples_per_second_max"]
        speed = f"{row['samples_per_second']:,.0f} ({least:,.0f} – {most:,.0f})"
    speedups = {
        speedup_heading(key): "" if value is None else f"{value:.2f}"
        for key, value in row.items()
        if key.startswith(SPEEDUP_PREFIX)
    }
    return {"samples/s": speed, **speedups}


def _format_accuracy(row: Mapping[str, Any]) -> dict[str, str]:
    mean, deviation = row["test_accuracy_mean"], row["test_accuracy_sd"]
    accuracy = "" if mean is None else f"{100 * mean:.2f}"
    return {"test accuracy, %": accuracy if deviation is None else f"{accuracy} ± {100 * deviation:.2f}"}


def _format_resources(row: Mapping[str, Any]) -> dict[str, str]:
    peak, traffic, utilisation = row["peak_memory_bytes"], row["traffic_bytes_per_step"], row["utilization"]
    return {
        "peak memory, largest process": "" if peak is None else format_bytes(peak),
        "traffic per step": "" if traffic is None else format_bytes(traffic),
        "utilisation, %": "" if utilisation is None else f"{100 * utilisation:.0f}",
    }


def _format_seconds_to_accuracies(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"seconds to {100 * float(key.removeprefix(_SECONDS_PREFIX)):g} % accuracy": ""
        if value is None
        else f"{value:.1f}"
        for key, value in row.items()
        if key.startswith(_SECONDS_PREFIX)
    }
