"""The process that trains one segment: `python -m partrain.worker <the segment's folder>`."""

import os
import signal
import sys
import traceback
from pathlib import Path

import torch

from partrain import checkpoint
from partrain.control import Control
from partrain.memory import PeakMemory
from partrain.segment import train

DONE, FAILED, STOPPED = 0, 1, 75  # exit codes

ERROR_FILE = "error.json"


def _lock(folder: Path) -> object:
    """Wait until no other process trains this segment, e.g. one whose launcher was just killed."""
    import fcntl

    file = (folder / "lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def main(folder: Path) -> int:
    memory = PeakMemory()
    control = Control(folder, parent=os.getppid())
    signal.signal(signal.SIGTERM, control.ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides; a terminal sends Ctrl-C to all
    lock = _lock(folder)
    control.look()
    try:
        return DONE if train(folder, control, memory) else STOPPED
    except Exception as error:  # noqa: BLE001 (the launcher reports it, whatever it is)
        clear = isinstance(error, ValueError | OSError | torch.OutOfMemoryError)
        report = {
            "type": type(error).__name__,
            "message": str(error),
            "clear": clear,
            "traceback": traceback.format_exc(),
        }
        traceback.print_exc()
        try:
            checkpoint.write_json(folder / ERROR_FILE, report)
        except OSError as full:
            print(f"{ERROR_FILE} could not be written: {full}", file=sys.stderr)
        return FAILED
    finally:
        del lock


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
