"""The task of one process of a group, as plain data in the process's own folder."""

from dataclasses import dataclass

from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class RankTask(SegmentTask):
    """The task of process `index` of a group that trains one network.

    A stage's `start` and `stop` are the cuts around its segment. A replica has neither: it has the whole network.
    """

    strategy: str
    """The name of the strategy, as in `strategy.name`."""
    num_ranks: int
    """The number of processes in the group."""
    microbatches: int
    """The number of pieces that a pipeline cuts a batch into."""
    timeout: float
    """Seconds that a process waits for another before it gives up."""
