"""The tasks of a group's processes: a rank each, as plain data in its own folder."""

from dataclasses import dataclass

from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class RankTask(SegmentTask):
    """Process `index` of the `num_ranks` that train a network by `strategy`.

    A stage's `start` and `stop` are its segment's; a replica has the whole network.
    """

    strategy: str
    num_ranks: int
    microbatches: int
    timeout: float
