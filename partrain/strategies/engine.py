"""The engine of a gang's process: it joins the gang and trains its rank.

The launcher may end the process at any time. The steps since the last round are then repeated.
"""

from pathlib import Path

from partrain.strategies.data_parallel import DataParallel
from partrain.strategies.decoupled import Decoupled
from partrain.strategies.fully_sharded import FullySharded
from partrain.strategies.group import group_member
from partrain.strategies.model_parallel import ModelParallel
from partrain.strategies.pipeline import Pipeline
from partrain.strategies.rank import RankTraining
from partrain.strategies.task import RankTask
from partrain.training.context import TrainingContext
from partrain.training.job import Job
from partrain.training.meters import PeakMemory

TRAININGS: dict[str, type[RankTraining]] = {
    "data_parallel": DataParallel,
    "fully_sharded": FullySharded,
    "model_parallel": ModelParallel,
    "gpipe": Pipeline,
    "1f1b": Pipeline,
    "decoupled": Decoupled,
}
"""The training of each strategy."""


class GroupTraining:
    """The training of one rank. It is made once its process has joined the group."""

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        self.folder, self.context, self.memory = folder, context, memory

    def run(self) -> bool:
        """Train the rank together with its peers.

        Returns:
            Whether the training has come to its end.

        Raises:
            PeerLost: If another process of the group ended or does not answer.
            UserError: If the task, its data or a checkpoint is damaged, or training fails.
        """
        task = RankTask.read(self.folder)
        with group_member(task, self.folder, self.context.device):
            training = TRAININGS[task.strategy](self.folder, self.context, self.memory)
            return training.run()


def make_work(job: Job, context: TrainingContext, memory: PeakMemory) -> GroupTraining:
    """Return the training of the rank that `job` describes."""
    return GroupTraining(job.folder, context, memory)
