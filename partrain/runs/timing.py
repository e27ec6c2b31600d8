"""The file timing.json: how long training took and how it was grouped, over all the times that a run was started."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint
from partrain.storage.run_folder import TIMING


@contextmanager
def record_seconds(folder: Path) -> Iterator[None]:
    """Add the seconds that pass within the context to those in timing.json in `folder`, however the context ends."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _record(folder, seconds=recorded_seconds(folder) + time.perf_counter() - started)


def recorded_seconds(folder: Path) -> float:
    """Return the seconds in timing.json in `folder`, or 0 if there is no such file."""
    return float(_read(folder).get("seconds", 0.0))


def record_grouping(folder: Path, name: str) -> None:
    """Record in timing.json in `folder` how the trainings there are grouped from now on."""
    names = recorded_groupings(folder)
    if names[-1:] != [name]:
        _record(folder, groupings=[*names, name])


def recorded_groupings(folder: Path) -> list[str]:
    """Return the groupings in which the trainings in `folder` trained one after another, none if none is recorded."""
    return list(_read(folder).get("groupings", []))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / TIMING
    return dict(checkpoint.read_json(path)) if path.exists() else {}


def _record(folder: Path, **values: object) -> None:
    """Write values beside those in timing.json. On a full disk another error names what could not be saved."""
    with suppress(OSError):
        checkpoint.write_json(folder / TIMING, _read(folder) | values)
