"""The engines that jobs run, by the kind that a job names. Their modules are imported by the processes that run them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from partrain.launch.allocator import MANY_TRAININGS, ONE_TRAINING, AllocatorLimits


@dataclass(frozen=True)
class Engine:
    """An engine: the module that runs a kind of job, and what its process needs."""

    module: str
    """The module, whose function `make_work(job, context, memory)` returns the job's `Work`."""
    allocator: AllocatorLimits = ONE_TRAINING
    """The limits of the allocator of its process."""
    ends_at_once: bool = False
    """Whether a request to stop ends the process at once, since its work has no checkpoint."""
    waits_for_peers: bool = False
    """Whether the process waits for others of its gang, in which Python runs no handler of signals."""


class Work(Protocol):
    """The work of a job: a training, a pack of trainings, or a measurement."""

    def run(self) -> bool:
        """Do the work, and return whether it is done. It is not if the context asked to stop."""
        ...


ENGINES: Mapping[str, Engine] = {
    "segment": Engine("partrain.training.segment"),
    "pack": Engine("partrain.packs.pack", MANY_TRAININGS),
    "pack_trial": Engine("partrain.packs.trial", MANY_TRAININGS, ends_at_once=True),
    "rank": Engine("partrain.strategies.engine", waits_for_peers=True),
    "shards": Engine("partrain.shards.engine", MANY_TRAININGS),
    "rung_scores": Engine("partrain.tuning.scoring", ends_at_once=True),
}
"""The engine of each kind of job."""

WARM_UP = "partrain.training.warm_up"
"""The module whose `warm_up()` does what every training does at its start, once, before processes are forked."""
