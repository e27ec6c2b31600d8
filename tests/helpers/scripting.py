"""Helpers of many tests: scripts run in this process as a user runs them, small runs, and files to compare."""

import io
import os
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from partrain import RunSettings
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.options import field_types
from partrain.report.settings import ReportSettings
from partrain.storage.run_folder import LOCK
from partrain.strategies.settings import STRATEGIES, StrategySettings
from partrain.training.optimization import TrainSettings

ROOT = Path(__file__).parents[2]
DATA = ["data.limit_train=600", "data.limit_test=200"]
TINY = [
    *DATA,
    *("network.depth=3", "network.width=32", "train.epochs=2", "train.batch_size=50", "train.early_stop=0"),
    *("launch.device=cpu", "launch.threads=1"),
]


class Outcome(NamedTuple):
    """The exit code of a script, and its output."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Return the only line on stderr, apart from the lines about the preparation of data."""
        lines = [line for line in self.err.splitlines() if not line.startswith("Preparing ")]
        assert len(lines) == 1, self.err
        return lines[0]


def run_script(name: str, *arguments: str) -> Outcome:
    """Run `python experiments/<name>.py <arguments>` in this process, and return its output."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    path = ROOT / "experiments" / f"{name}.py"
    with (
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        mock.patch.dict(os.environ),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def begun_in(folder: Path) -> list[str]:
    """Return the names of all that a command has left in a folder, but for Hydra's own files."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".hydra")


def small_settings(**changed: Any) -> RunSettings:
    """Return settings for two segments of 400 steps each, long enough to be interrupted, with reproducible bits.

    There is no page, which takes as long to draw as such a segment to train.
    """
    defaults: dict[str, Any] = {
        "network": MLP(depth=4, width=32, dropout=0.1),
        "train": TrainSettings(epochs=5, batch_size=8, early_stop=0, precision="fp32", checkpoint_seconds=1e-6),
        "launch": Local(device="cpu", threads=1),
        "report": ReportSettings(page=False),
    }
    return RunSettings(**{**defaults, **changed})


def strategy_named(name: str, **values: Any) -> StrategySettings:
    """Return the settings of a strategy, with those of `values` that it has."""
    known = field_types(STRATEGIES.class_named(name))
    return STRATEGIES.from_dict({"name": name} | {key: value for key, value in values.items() if key in known})


def model_bytes(run: Path) -> bytes:
    """Return the contents of the file of the stitched weights."""
    return (run / "model" / "model.safetensors").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file below `folder`, by relative path.

    Locks are left out, which say who held them last, and Hydra's own files, which say what the last command was.
    """
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != LOCK and ".hydra" not in file.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `happened()` is true, and fail if it is not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
