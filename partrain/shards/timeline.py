"""The timeline of a sharded training: timeline.csv, with a row for every unit that a device computed."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from partrain.shards.messages import UnitResult
from partrain.shards.scheduler import Unit
from partrain.storage.run_folder import TIMELINE

UNIT_COLUMNS = ("session", "device", "model", "step", "shard", "kind")
TIME_COLUMNS = ("load_begin", "load_end", "begin", "end", "store_begin", "store_end")  # seconds since 1970


class TimelineWriter:
    """An open timeline.csv, to which a row is appended for every unit that is done.

    A training that is resumed appends to the same file. Each opening of the file is a session with a number of its own.

    Args:
        folder: The folder of the sharded training.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / TIMELINE
        self._session = 1 + _last_session(path) if path.exists() else 0
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._writer.writerow((*UNIT_COLUMNS, *TIME_COLUMNS))

    def add(self, device: int, model: str, result: UnitResult) -> None:
        """Append the row of a unit of the model named `model` that device number `device` has done."""
        unit = result.unit
        times = (*result.load_span, *result.compute_span, *result.store_span)
        row = (self._session, device, model, unit.step, unit.shard, _passes(unit))
        self._writer.writerow((*row, *(f"{seconds:.6f}" for seconds in times)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _last_session(path: Path) -> int:
    """Return the number of the last session in the file, -1 where it has no rows."""
    with path.open(newline="") as file:
        return max((int(row["session"]) for row in csv.DictReader(file)), default=-1)


def _passes(unit: Unit) -> str:
    """Return which passes through its shard a unit computes, as the column "kind" calls them."""
    if unit.is_forward and unit.is_backward:
        return "both"
    return "forward" if unit.is_forward else "backward"


@dataclass(frozen=True)
class TimelineRow:
    """A unit on the timeline: the device and shard that it was computed on, and when.

    Times are seconds since the training began. The time between two sessions, while training was stopped, is left out.
    """

    session: int
    device: str
    """The device's name, such as "device 0"."""
    model: str
    """The model's name."""
    step: int
    shard: int
    passes: str
    """Which passes through the shard the unit computed: "forward", "backward" or "both"."""
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Return how long the unit was computed, in seconds, without copies."""
        return self.end - self.begin


def read_timeline(path: Path) -> list[TimelineRow]:
    """Return the units of all sessions in timeline.csv at `path`, in the order in which they began."""
    with path.open(newline="") as file:
        entries = list(csv.DictReader(file))

    rows: list[TimelineRow] = []
    previous_end = 0.0  # in seconds of training, when the session before ended
    for _, group in groupby(entries, key=lambda entry: entry["session"]):
        session = list(group)
        began_at = min(float(entry["begin"]) for entry in session) - previous_end
        rows += [_timeline_row(entry, began_at) for entry in session]
        previous_end = max(row.end for row in rows)
    return sorted(rows, key=lambda row: row.begin)


def _timeline_row(entry: Mapping[str, str], began_at: float) -> TimelineRow:
    """Return a row of the file, with times counted from second `began_at` since 1970."""
    return TimelineRow(
        session=int(entry["session"]),
        device=f"device {entry['device']}",
        model=entry["model"],
        step=int(entry["step"]),
        shard=int(entry["shard"]),
        passes=entry["kind"],
        begin=float(entry["begin"]) - began_at,
        end=float(entry["end"]) - began_at,
    )
