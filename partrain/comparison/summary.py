"""One row per cell over its runs, as numbers and as people read them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from partrain.comparison.grid import Cell
from partrain.comparison.table import CellRun, seconds_to_accuracy
from partrain.report.formatting import format_bytes
from partrain.strategies.settings import PIPELINES

SUMMARY_NOTES = (
    "samples/s: images visited, each once an epoch however many processes saw it, over the seconds of the slowest "
    "process's steps, the first one included; median (least – most) of the repeats.",
    "synthetic is × faster: the median, over repeats, of synthetic's samples/s over this cell's in the same repeat, at "
    "the same network, batch size and number of segments K; repeats are done in turn, every second one backwards.",
    "Test accuracy: mean ± standard deviation over the repeats, which differ in seed; strategies share the seeds.",
    "Peak memory: the most that one process took in any repeat. Traffic and utilisation: medians; utilisation is the CPU "
    "time of all processes over what all cores had while they trained.",
    "Seconds to an accuracy: from the first step; the median, where a repeat that does not get there counts as infinite.",
    "best: of a pipeline's counts of microbatches the one with the highest median of samples/s.",
)


def summarise(runs: Sequence[CellRun], cells: Sequence[Cell], accuracies: Sequence[float]) -> list[dict[str, Any]]:
    """A row of numbers per cell, in units of the table's; None where there is nothing to tell."""
    done: dict[Cell, list[CellRun]] = {cell: [] for cell in cells}
    failed: dict[Cell, int] = defaultdict(int)
    for run in runs:
        if run.results:
            done[run.cell].append(run)
        else:
            failed[run.cell] += 1
    best = _best_pipelines(done)
    return [
        asdict(cell)
        | {"runs": len(done[cell]), "failed": failed[cell]}
        | _speed(done[cell])
        | {f"synthetic_speedup_k{segments}": _speedup(cell, segments, done) for segments in _synthetic_segments(cells)}
        | _accuracy(done[cell], accuracies)
        | _resources(done[cell])
        | {"best_microbatches": (cell in best) if cell.strategy in PIPELINES else None}
        for cell in cells
    ]


def _values(runs: Sequence[CellRun], name: str) -> list[float]:
    return [run.results[name] for run in runs if run.results[name] is not None]


def largest_process_bytes(run: CellRun) -> int:
    """Its peak memory, bytes."""
    return max(process["peak_memory_bytes"] for process in run.results["segments"])


def median_or_none(values: Sequence[float]) -> float | None:
    """None of no values."""
    return statistics.median(values) if values else None


def _speed(runs: Sequence[CellRun]) -> dict[str, Any]:
    values = _values(runs, "samples_per_second")
    return {
        "samples_per_second": median_or_none(values),
        "samples_per_second_min": min(values, default=None),
        "samples_per_second_max": max(values, default=None),
    }


def _synthetic_segments(cells: Sequence[Cell]) -> list[int]:
    return sorted({cell.segments for cell in cells if cell.strategy == "synthetic"})


def _speedup(cell: Cell, segments: int, done: dict[Cell, list[CellRun]]) -> float | None:
    """Synthetic's samples/s with so many segments over this cell's, repeat by repeat; no cut is compared with all."""
    if cell.strategy != "end_to_end" and cell.segments != segments:
        return None
    rival = asdict(cell) | {"strategy": "synthetic", "segments": segments, "microbatches": None}
    theirs = {run.repeat: run.results["samples_per_second"] for run in done.get(Cell(**rival), [])}
    return median_or_none(
        [theirs[run.repeat] / run.results["samples_per_second"] for run in done[cell] if run.repeat in theirs]
    )


def _accuracy(runs: Sequence[CellRun], accuracies: Sequence[float]) -> dict[str, Any]:
    values = _values(runs, "test_accuracy")
    found: dict[str, Any] = {
        "test_accuracy_mean": statistics.mean(values) if values else None,
        "test_accuracy_sd": statistics.stdev(values) if len(values) > 1 else None,
    }
    for accuracy in accuracies:
        times = [seconds_to_accuracy(accuracy, run.results) for run in runs]
        middle = median_or_none([math.inf if time is None else time for time in times])
        found[f"seconds_to_{accuracy:g}"] = None if middle == math.inf else middle
    return found


def _resources(runs: Sequence[CellRun]) -> dict[str, Any]:
    return {
        "peak_memory_bytes": max(map(largest_process_bytes, runs), default=None),
        "traffic_bytes_per_step": median_or_none(_values(runs, "traffic_bytes_per_step")),
        "utilization": median_or_none(_values(runs, "utilization")),
    }


def _best_pipelines(done: dict[Cell, list[CellRun]]) -> set[Cell]:
    """Of cells that differ in microbatches alone, the fastest."""
    rivals: dict[str, dict[Cell, float]] = defaultdict(dict)
    for cell, runs in done.items():
        if cell.strategy in PIPELINES and runs:
            key = str(asdict(cell) | {"microbatches": None})
            rivals[key][cell] = statistics.median(_values(runs, "samples_per_second"))
    return {max(group, key=group.__getitem__) for group in rivals.values()}


def format_summary_row(row: dict[str, Any]) -> dict[str, str]:
    """A row of the summary as it stands in summary.md."""
    pipeline = f"{row['microbatches']}{', best' if row['best_microbatches'] else ''}" if row["microbatches"] else ""
    shown = {
        "strategy": row["strategy"],
        "network": f"{row['network']} {row['width'] or ''}".strip(),
        "K": str(row["segments"]),
        "batch": str(row["batch_size"]),
        "microbatches": pipeline,
        "runs": f"{row['runs']}{', {} failed'.format(row['failed']) if row['failed'] else ''}",
        "samples/s": "",
    }
    if row["runs"]:
        least, most = row["samples_per_second_min"], row["samples_per_second_max"]
        shown["samples/s"] = f"{row['samples_per_second']:,.0f} ({least:,.0f} – {most:,.0f})"
    for name, value in row.items():
        if name.startswith("synthetic_speedup_k"):
            key = f"synthetic, K = {name.removeprefix('synthetic_speedup_k')}, is × faster"
            shown[key] = "" if value is None else f"{value:.2f}"
    mean, deviation = row["test_accuracy_mean"], row["test_accuracy_sd"]
    shown["test accuracy, %"] = "" if mean is None else f"{100 * mean:.2f}"
    shown["test accuracy, %"] += "" if deviation is None else f" ± {100 * deviation:.2f}"
    for name in ("peak_memory_bytes", "traffic_bytes_per_step"):
        key = "peak memory, largest process" if name == "peak_memory_bytes" else "traffic per step"
        shown[key] = "" if row[name] is None else format_bytes(row[name])
    shown["utilisation, %"] = "" if row["utilization"] is None else f"{100 * row['utilization']:.0f}"
    for name, value in row.items():
        if name.startswith("seconds_to_"):
            key = f"seconds to {100 * float(name.removeprefix('seconds_to_')):g} %"
            shown[key] = "" if value is None else f"{value:.1f}"
    return shown
