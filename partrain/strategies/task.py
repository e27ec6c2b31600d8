"""The tasks of a group's processes: a rank each, as plain data in its own folder."""

from dataclasses import dataclass

from partrain.data import Dataset
from partrain.launch.placement import place
from partrain.partition import Plan
from partrain.schedule import common_to_tasks
from partrain.settings import RunSettings
from partrain.strategies.settings import REPLICAS, check_group
from partrain.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class RankTask(SegmentTask):
    """Process `index` of the `num_ranks` that train a network by `strategy`.

    A stage's `start` and `stop` are its segment's; a replica has the whole network.
    """

    strategy: str
    num_ranks: int
    microbatches: int
    timeout: float


def make_rank_tasks(settings: RunSettings, plan: Plan, dataset: Dataset) -> dict[str, RankTask]:
    """The group's tasks by their folder within the run: ranks/0 ...

    Raises:
        ValueError: the strategy cannot work with this many processes or such batches.
    """
    strategy, count = settings.strategy, settings.partition.num_segments
    devices = place(settings.launch.device, count)
    check_group(strategy, count, settings.train.batch_size, devices)
    held = plan.segments * count if strategy.name in REPLICAS else plan.segments
    return {
        f"ranks/{index}": RankTask(
            index=index,
            start=segment.start,
            stop=segment.stop,
            start_shape=segment.input_shape,
            stop_shape=segment.output_shape,
            train=settings.train,
            device=device,
            strategy=strategy.name,
            num_ranks=count,
            microbatches=strategy.microbatches,
            timeout=strategy.timeout,
            **common_to_tasks(settings, plan, dataset),
        )
        for index, (segment, device) in enumerate(zip(held, devices, strict=True))
    }
