"""Scheduling policies: which model a device computes a unit of next.

A policy is an object with one method, `choose`. Pass your own to `train_sharded`, or add it to `POLICIES` to make it a
value of the setting `policy`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ReadyModels:
    """The models that a device could compute a unit of next, one entry a model in every array [models]."""

    remaining_seconds: NDArray[np.float64]
    """Seconds until each model is trained if it never waits for a device."""
    step_seconds: NDArray[np.float64]
    """Seconds that one training step of each model takes."""
    ready_since: NDArray[np.int64]
    """A counter's value when each model became ready. The lowest has waited longest."""
    is_resident: NDArray[np.bool_]
    """Whether the shard that the model's next unit needs is on the device already."""


class Policy(Protocol):
    """The interface of a scheduling policy."""

    def choose(self, ready: ReadyModels) -> int:
        """Return the index of one of the ready models, of which there is at least one."""
        ...


class LongestRemaining:
    """Sharded longest-remaining-time-first (arXiv 2110.08633, section 4.3).

    The model with the most seconds of training left goes first, since it would otherwise end last and alone. A model
    within one step of it is preferred if its next shard is on the device already, which saves a transfer.
    """

    def choose(self, ready: ReadyModels) -> int:
        """Return the model with the longest remaining time, or a resident one that is within a step of it."""
        longest = ready.remaining_seconds.max()
        saves_transfer = ready.is_resident & (ready.remaining_seconds + ready.step_seconds >= longest)
        return int(np.where(saves_transfer, np.inf, ready.remaining_seconds).argmax())


class FirstReady:
    """First in, first out."""

    def choose(self, ready: ReadyModels) -> int:
        """Return the model that has been ready for the longest time."""
        return int(ready.ready_since.argmin())


class Random:
    """A uniformly random choice.

    Args:
        seed: The seed of the choices.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(self, ready: ReadyModels) -> int:
        """Return a random model."""
        return int(self._generator.integers(len(ready.ready_since)))


POLICIES: dict[str, Callable[[int], Policy]] = {
    "longest_remaining": lambda seed: LongestRemaining(),
    "fifo": lambda seed: FirstReady(),
    "random": Random,
}
"""The built-in policies: a function from a seed to a policy, by the name that settings use."""
