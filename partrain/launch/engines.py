"""The engines that jobs run, by the kind that a job names. Their modules are imported by the processes that run them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

# Settings of glibc's allocator. By default it returns memory to the system and fetches it again at every step, which
# can double a step's time, and keeps large blocks that are no longer needed. Other allocators ignore them.
_ONE_TRAINING = {
    "MALLOC_TRIM_THRESHOLD_": "32000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch: large tensors in huge pages
}
MANY_TRAININGS = {**_ONE_TRAINING, "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""Environment variables for processes that compute many trainings at once, in bytes.

A stack's temporary tensors are M times as large as a training's. glibc takes no mmap threshold above 32 MiB.
"""


@dataclass(frozen=True)
class Engine:
    """An engine: the module that runs a kind of job, and what its process needs."""

    module: str
    """The module, whose function `make_work(job, context, memory)` returns the job's `Work`."""
    environment: Mapping[str, str] = field(default_factory=lambda: _ONE_TRAINING)
    """Environment variables of the process, where the launcher's own environment does not set them."""
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
