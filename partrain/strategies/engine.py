"""The engine of a group's process: it joins the group and trains its rank.

The launcher ends the process at any time; what is then done again are the steps since the last epoch's end.
"""

import signal
from pathlib import Path

from partrain.strategies.data_parallel import DataParallel
from partrain.strategies.decoupled import Decoupled
from partrain.strategies.fully_sharded import FullySharded
from partrain.strategies.group import joined
from partrain.strategies.model_parallel import ModelParallel
from partrain.strategies.pipeline import Pipeline
from partrain.strategies.rank import RankTraining
from partrain.strategies.task import RankTask
from partrain.training.context import TrainingContext
from partrain.training.meters import PeakMemory

TRAININGS: dict[str, type[RankTraining]] = {
    "data_parallel": DataParallel,
    "fully_sharded": FullySharded,
    "model_parallel": ModelParallel,
    "gpipe": Pipeline,
    "1f1b": Pipeline,
    "decoupled": Decoupled,
}

# a process that waits for a peer runs no handler, so that the signal itself has to end it
ON_TERMINATE = signal.SIG_DFL


def train(folder: Path, context: TrainingContext, memory: PeakMemory) -> bool:
    """Train the rank whose task is in `folder`, with its peers; True once it is done.

    Raises:
        PeerLost: one of the others ended or does not answer.
        ValueError: the task, its data or a checkpoint are damaged, or training fails.
    """
    task = RankTask.read(folder)
    with joined(task):
        training = TRAININGS[task.strategy](folder, context, memory)
        training.run()
        return training.progress.finished
