"""A worker process that computes a unit by waiting for a word of the test.

The folder that `FOLDER` names gets the file `begun` once a unit is computed. The unit ends as the file `word` in it says:
`go` ends it well, and `fail` ends the worker's thread.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partrain.shards import device_worker

FOLDER = "PARTRAIN_TEST_FOLDER"
"""The environment variable with the folder."""
_LONGEST_WAIT = 120.0
"""Seconds after which the process ends itself, should the test have ended without a word."""


def wait_for(path: Path) -> str:
    """Return the text of a file that is still to be written."""
    until = time.monotonic() + _LONGEST_WAIT
    while not (path.exists() and (text := path.read_text())):
        assert time.monotonic() < until, f"{path} is missing"
        time.sleep(0.01)
    return text


def compute(worker: object, execution: object) -> None:
    """Compute a unit, which takes until there is a word."""
    folder = Path(os.environ[FOLDER])
    (folder / "begun").write_text("begun")
    wait_for(folder / "word")


def store(worker: object, execution: object) -> None:
    """Store what a unit has changed, or end the thread as no `Exception` does, which would be the unit's own."""
    if wait_for(Path(os.environ[FOLDER]) / "word") == "fail":
        raise SystemExit(1)


def skip(*_: Any) -> None:
    """Do nothing."""


def main(arguments: Sequence[str]) -> int:
    device_worker.Worker._load = skip  # type: ignore[method-assign]
    device_worker.Worker._compute = compute  # type: ignore[method-assign]
    device_worker.Worker._store = store  # type: ignore[method-assign]
    return device_worker.main(arguments)
