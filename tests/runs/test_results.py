"""Tests of what results say of a run: how long its steps took, computed from the times of its trainings, and memory."""

from types import SimpleNamespace
from typing import Any

import pytest

from partrain.runs.results import _FinishedTrainings, _memory_by_device, step_seconds
from partrain.training.progress import Progress


def part(start: float, seconds: float) -> Progress:
    """Return the progress of a training that began at `start` and stepped for `seconds`, with a pause in between."""
    half = seconds / 2
    return Progress(end=1, seconds=seconds, timeline=[[start, start + half], [start + half + 3, start + seconds + 3]])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([part(100, 8)], 8),
        ([part(100, 8), part(100.5, 6)], 8),  # side by side: the slowest, wherever it began
        ([part(100, 8), part(104, 8)], 8),
        ([part(100, 5), part(107, 6)], 11),  # One after the other: the time between them does not count.
        ([part(100, 10), part(100, 4), part(107, 6)], 13),  # three on two cores
    ],
)
def test_seconds_of_steps(parts: list[Progress], expected: float) -> None:
    assert step_seconds(parts) == pytest.approx(expected)


@pytest.mark.parametrize("peaks", [(5, None, 3), (None, 5, 3)])
def test_memory_of_a_device_is_unknown_where_that_of_one_training_is(peaks: tuple[int | None, ...]) -> None:
    devices = {"a": "mps:0", "b": "mps:0", "c": "cpu"}
    run: Any = SimpleNamespace()
    progress = {
        name: Progress(end=1, device=device, peak_memory_bytes=peak, parameter_bytes=2)
        for (name, device), peak in zip(devices.items(), peaks, strict=True)
    }
    assert _memory_by_device(_FinishedTrainings(run=run, progress=progress)) == {
        "mps:0": {"peak_memory_bytes": None, "parameter_bytes": 4, "optimizer_state_bytes": 0},
        "cpu": {"peak_memory_bytes": 3, "parameter_bytes": 2, "optimizer_state_bytes": 0},
    }
