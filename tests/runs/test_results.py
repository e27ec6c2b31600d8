"""Tests of how long the steps of a run took, computed from the times of its trainings."""

import pytest

from partrain.runs.results import step_seconds
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
