"""A group's process: `python -m partrain.strategies.worker <its folder> <its launcher's process id>`.

The launcher ends it at any time; what is then done again are the steps since the last epoch's end.
"""

import signal
import sys
from pathlib import Path

from partrain.control import Control
from partrain.memory import PeakMemory
from partrain.strategies.data_parallel import DataParallel
from partrain.strategies.decoupled import Decoupled
from partrain.strategies.fully_sharded import FullySharded
from partrain.strategies.group import joined
from partrain.strategies.model_parallel import ModelParallel
from partrain.strategies.pipeline import Pipeline
from partrain.strategies.rank import RankTraining
from partrain.strategies.task import RankTask
from partrain.worker import work

TRAININGS: dict[str, type[RankTraining]] = {
    "data_parallel": DataParallel,
    "fully_sharded": FullySharded,
    "model_parallel": ModelParallel,
    "gpipe": Pipeline,
    "1f1b": Pipeline,
    "decoupled": Decoupled,
}


def train(folder: Path, control: Control, memory: PeakMemory) -> bool:
    """Train the rank whose task is in `folder`, with its peers; True once it is done.

    Raises:
        PeerLost: one of the others ended or does not answer.
        ValueError: the task, its data or a checkpoint are damaged, or training fails.
    """
    task = RankTask.read(folder)
    with joined(task):
        training = TRAININGS[task.strategy](folder, control, memory)
        training.run()
        return training.progress.finished


if __name__ == "__main__":
    # a process that waits for a peer runs no handler, so that the signal itself has to end it
    sys.exit(work(Path(sys.argv[1]), int(sys.argv[2]), train, on_terminate=signal.SIG_DFL))
