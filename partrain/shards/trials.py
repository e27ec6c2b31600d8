"""Trials of models that are to join: their preparation asks for them, and a worker's process computes them.

So the process that holds the models computes nothing: its devices, random generators and threads are the caller's.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from partrain.shards.messages import ModelSpec, StepProfile

# The session's thread prepares one model at a time, in steps between its rounds of units:
#
#   session's thread                                   worker 0                    other workers
#   a step of preparation: build, cut, copy, yield ─┐  units                       units
#   rounds of units                                 └▶ last unit of its steps      units
#   rounds of units                                    computes the trial          units
#   a step of preparation: correct the cuts, yield  ◀┘ units                       units
#   ...                                                ...                         ...
#   a step of preparation: place, return               units                       units

T = TypeVar("T")
TRIAL_WORKER = 0
"""The number of the worker that computes trials."""


@dataclass
class Trial:
    """A few steps of a model that a worker is to compute on copies of its tensors."""

    spec: ModelSpec
    """The model. The files of its shards hold the copies. It has no crossings."""
    is_sent: bool = False
    """Whether the trial is at the worker, or has been."""
    outcome: StepProfile | Exception | None = None
    """What a step takes, or the error that it raised, once the worker has answered."""

    @property
    def is_to_be_sent(self) -> bool:
        """Return whether the worker has yet to compute the trial."""
        return not self.is_sent and self.outcome is None

    @property
    def profile(self) -> StepProfile:
        """Return what a step takes, once the worker has answered, or raise the error that it raised."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome


Preparation = Generator[Trial, None, T]
"""A preparation that yields each trial it needs, goes on once that has an outcome, and returns a `T`."""


def finish_here(preparation: Preparation[T], profile: Callable[[ModelSpec], StepProfile]) -> T:
    """Return what a preparation returns, with all its trials computed by `profile` in this process."""
    try:
        while True:
            trial = next(preparation)
            trial.outcome = profile(trial.spec)
    except StopIteration as end:
        result: T = end.value
        return result
