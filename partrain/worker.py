"""The process that trains one segment: `python -m partrain.worker <the segment's folder> [<its launcher's process id>]`.

With a launcher it ends, after writing a checkpoint, once that is gone.
"""

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from partrain import checkpoint
from partrain.control import Control
from partrain.memory import PeakMemory
from partrain.segment import train

DONE, FAILED, UNWRITABLE, STOPPED = 0, 1, 74, 75  # exit codes; UNWRITABLE: failed, with no room to say why

ERROR_FILE = "error.json"

Train = Callable[[Path, Control, PeakMemory], bool]


def _lock(folder: Path) -> object:
    """Wait until no other process trains this segment, e.g. one whose launcher was just killed."""
    import fcntl

    file = (folder / "lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def write_report(folder: Path, error: Exception) -> None:
    """Say in `folder`/error.json why its training failed."""
    report = {
        "type": type(error).__name__,
        "message": str(error),
        "clear": isinstance(error, ValueError | OSError | torch.OutOfMemoryError),
        "traceback": "".join(traceback.format_exception(error)),
    }
    checkpoint.write_json(folder / ERROR_FILE, report)


def work(folder: Path, launcher: int | None, train: Train, on_terminate: signal.Handlers | None = None) -> int:
    """Call `train`, and leave error.json in `folder` where it fails; returns the exit code.

    `on_terminate`: what SIGTERM does, instead of having a checkpoint written at the next look.
    """
    memory = PeakMemory()
    control = Control(folder, launcher)
    signal.signal(signal.SIGTERM, on_terminate if on_terminate is not None else control.ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides; a terminal sends Ctrl-C to all
    lock = _lock(folder)
    control.look()
    try:
        return DONE if train(folder, control, memory) else STOPPED
    except Exception as error:
        traceback.print_exc()
        try:
            write_report(folder, error)
        except OSError as full:
            print(full, file=sys.stderr)
            return UNWRITABLE
        return FAILED
    finally:
        del lock


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None, train))
