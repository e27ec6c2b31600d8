"""When each device did what: timeline.csv, a row for every unit, written and read here."""

import csv
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from partrain.shards.messages import UnitResult
from partrain.storage.run_folder import TIMELINE

COLUMNS = ("session", "device", "model", "step", "shard", "kind")
MOMENTS = ("load_begin", "load_end", "begin", "end", "store_begin", "store_end")  # seconds since 1970


class Timeline:
    """The file in `folder`, to which rows are added as units are done; a `session` for every time that it is opened."""

    def __init__(self, folder: Path) -> None:
        path = folder / TIMELINE
        self._session = 1 + _last_session(path) if path.exists() else 0
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._writer.writerow((*COLUMNS, *MOMENTS))

    def add(self, device: int, model: str, result: UnitResult) -> None:
        unit = result.unit
        kind = "both" if unit.is_forward and unit.is_backward else "forward" if unit.is_forward else "backward"
        moments = (f"{each:.6f}" for each in (*result.load_span, *result.compute_span, *result.store_span))
        self._writer.writerow((self._session, device, model, unit.step, unit.shard, kind, *moments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _last_session(path: Path) -> int:
    with path.open(newline="") as file:
        return max((int(row["session"]) for row in csv.DictReader(file)), default=-1)


@dataclass(frozen=True)
class TimelineRow:
    """A unit on the time line: where and what it was, and from when to when it was computed, in seconds from the start.

    What lies between two sessions, as when a training was stopped, is left out.
    """

    session: int
    device: str
    model: str
    step: int
    shard: int
    kind: str
    begin: float
    end: float


def read_timeline(path: Path) -> list[TimelineRow]:
    """All units, by when they began."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    rows: list[TimelineRow] = []
    after = 0.0  # seconds of the sessions before
    for session, group in groupby(found, key=lambda row: int(row["session"])):
        own = list(group)
        start = min(float(row["begin"]) for row in own) - after
        rows += [
            TimelineRow(
                session,
                f"device {row['device']}",
                row["model"],
                int(row["step"]),
                int(row["shard"]),
                row["kind"],
                float(row["begin"]) - start,
                float(row["end"]) - start,
            )
            for row in own
        ]
        after = max(row.end for row in rows)
    return sorted(rows, key=lambda row: row.begin)
