"""Which model a device takes up next. A policy is a few lines: add yours to `POLICIES`, or hand it to the scheduler."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ReadyModels:
    """The models that a device can take up, an entry each.

    `remaining`: seconds until the model is trained, were it alone. `step`: seconds of one of its steps. `since`: the
    lower, the longer it has been waiting. `resident`: whether the shard that it needs is on the device already.
    """

    remaining: NDArray[np.float64]
    step: NDArray[np.float64]
    since: NDArray[np.int64]
    resident: NDArray[np.bool_]


class Policy(Protocol):
    def choose(self, ready: ReadyModels) -> int:
        """The place of one of those that are `ready`; there is at least one."""
        ...


class LongestRemaining:
    """Sharded longest-remaining-time-first (arXiv 2110.08633, section 4.3): the last to end must not begin late.

    Of those that are within a step of the longest, one whose shard is on the device already, which saves a transfer.
    """

    def choose(self, ready: ReadyModels) -> int:
        near = ready.resident & (ready.remaining + ready.step >= ready.remaining.max())
        return int(np.where(near, np.inf, ready.remaining).argmax())


class FirstReady:
    """First in, first out: who has been waiting for the longest."""

    def choose(self, ready: ReadyModels) -> int:
        return int(ready.since.argmin())


class Random:
    """Any, from the seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(self, ready: ReadyModels) -> int:
        return int(self._generator.integers(len(ready.since)))


POLICIES: dict[str, Callable[[int], Policy]] = {
    "longest_remaining": lambda seed: LongestRemaining(),
    "fifo": lambda seed: FirstReady(),
    "random": Random,
}
