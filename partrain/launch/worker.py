"""The process that trains: `python -m partrain.launch <module> <folder> [<its launcher's process id>]`.

`module` is the engine: its `train` is called with the folder, which holds all that the training needs. It may say what
SIGTERM does (`ON_TERMINATE`). With a launcher the process ends, after writing a checkpoint, once that is gone.
"""

import fcntl
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import ERROR_FILE, LOCK
from partrain.training.context import TrainingContext
from partrain.training.meters import PeakMemory

DONE, FAILED, UNWRITABLE, STOPPED = 0, 1, 74, 75  # exit codes; UNWRITABLE: failed, with no room to say why

Train = Callable[[Path, TrainingContext, PeakMemory], bool]


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    module, folder, *launcher = arguments
    engine = importlib.import_module(module)
    on_terminate = getattr(engine, "ON_TERMINATE", None)
    return work(Path(folder), int(launcher[0]) if launcher else None, engine.train, on_terminate)


def work(folder: Path, launcher: int | None, train: Train, on_terminate: signal.Handlers | None = None) -> int:
    """Call `train`, and leave error.json in `folder` where it fails; return the exit code.

    `on_terminate`: what SIGTERM does, instead of having a checkpoint written at the next look.
    """
    memory = PeakMemory()
    context = TrainingContext(folder, launcher)
    signal.signal(signal.SIGTERM, context.request_stop if on_terminate is None else on_terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides; a terminal sends Ctrl-C to all
    with _locked(folder):
        context.poll()
        try:
            return DONE if train(folder, context, memory) else STOPPED
        except Exception as error:
            traceback.print_exc()
            return _fail(folder, error)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in `folder`, e.g. one whose launcher was just killed; then keep others out."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fail(folder: Path, error: Exception) -> int:
    """Leave the report of an error; return the exit code."""
    try:
        write_report(folder, error)
    except OSError as full:
        print(full, file=sys.stderr)
        return UNWRITABLE
    return FAILED


def write_report(folder: Path, error: Exception) -> None:
    """Say in `folder`/error.json why its training failed."""
    report = {
        "type": type(error).__name__,
        "message": str(error),
        "clear": isinstance(error, UserError | OSError | torch.OutOfMemoryError),
        "traceback": "".join(traceback.format_exception(error)),
    }
    checkpoint.write_json(folder / ERROR_FILE, report)
