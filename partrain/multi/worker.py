"""The process that trains a pack: `python -m partrain.multi.worker <the pack's folder> <its launcher's process id>`."""

import sys
from pathlib import Path

from partrain.control import Control
from partrain.memory import PeakMemory
from partrain.multi.pack import Pack
from partrain.multi.task import PackTask
from partrain.worker import work


def train(folder: Path, control: Control, memory: PeakMemory) -> bool:
    """Train the pack whose task is in `folder`, or go on with it; True once all are done or have failed."""
    return Pack(folder, PackTask.read(folder), control, memory).run()


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None, train))
