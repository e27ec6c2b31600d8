"""The process that trains: `python -m partrain.launch <module> <folder> [<its launcher's process id>]`.

The module is the engine, `partrain.training.segment` for the main job. Its `make_training` gets the folder, which holds
all that the training needs, and the process runs what it returns. The engine may define `ON_TERMINATE`, which replaces
the handler of SIGTERM. A process that has a launcher writes a checkpoint and ends once the launcher has ended.
"""

import fcntl
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from partrain.launch.error_report import write_error_report
from partrain.storage.run_folder import LOCK
from partrain.training.context import TrainingContext
from partrain.training.meters import PeakMemory

# Exit codes. A process that failed and could not even write error.json, as the disk is full, ends with UNWRITABLE.
DONE, FAILED, UNWRITABLE, STOPPED = 0, 1, 74, 75


class RunnableTraining(Protocol):
    """A training that an engine has made: of one task, of a pack, or of a process of a group."""

    def run(self) -> bool:
        """Train, and return whether the training is finished. It is not if it was asked to stop."""
        ...


MakeTraining = Callable[[Path, TrainingContext, PeakMemory], RunnableTraining]
"""The type of an engine's `make_training`: it builds the training in a folder, or resumes it from its checkpoint."""


def main(arguments: Sequence[str]) -> int:
    """Run the engine that the command line names, and return the exit code."""
    module, folder, *launcher = arguments
    engine = importlib.import_module(module)
    on_terminate = getattr(engine, "ON_TERMINATE", None)
    return run_training(Path(folder), int(launcher[0]) if launcher else None, engine.make_training, on_terminate)


def run_training(
    folder: Path, launcher: int | None, make_training: MakeTraining, on_terminate: signal.Handlers | None = None
) -> int:
    """Make the training in `folder` and run it, and write error.json if it fails.

    Args:
        folder: The folder of the training.
        launcher: The process id of the launcher, if there is one.
        make_training: The engine's function.
        on_terminate: The handler of SIGTERM. By default it has a checkpoint written after the present step.

    Returns:
        The exit code of the process.
    """
    memory = PeakMemory()
    context = TrainingContext(folder, launcher)
    signal.signal(signal.SIGTERM, context.request_stop if on_terminate is None else on_terminate)
    # A terminal sends Ctrl-C to the launcher's processes too, but the launcher alone decides when they stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _locked(folder):
        context.poll()
        try:
            training = make_training(folder, context, memory)
            return DONE if training.run() else STOPPED
        except Exception as error:
            traceback.print_exc()
            return _report(folder, error)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, and first wait for it: the process of a killed launcher may still train there."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _report(folder: Path, error: Exception) -> int:
    """Write the report of `error`, and return the exit code."""
    try:
        write_error_report(folder, error)
    except OSError as unwritable:
        print(unwritable, file=sys.stderr)
        return UNWRITABLE
    return FAILED
