"""The file timing.json: how long training took, over all the times that a run was started."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from partrain.storage import checkpoint
from partrain.storage.run_folder import TIMING


@contextmanager
def record_seconds(folder: Path) -> Iterator[None]:
    """Add the seconds that pass within the context to those in timing.json in `folder`, however the context ends."""
    started = time.perf_counter()
    try:
        yield
    finally:
        # On a full disk another error reports that, and names what could not be saved.
        with suppress(OSError):
            seconds = recorded_seconds(folder) + time.perf_counter() - started
            checkpoint.write_json(folder / TIMING, {"seconds": seconds})


def recorded_seconds(folder: Path) -> float:
    """Return the seconds in timing.json in `folder`, or 0 if there is no such file."""
    path = folder / TIMING
    return float(checkpoint.read_json(path)["seconds"]) if path.exists() else 0.0
