"""The interface between a search and the code that trains and scores its trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from partrain.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """The run in which a trial is trained, and how far it is to be trained next."""

    index: int
    """The trial's index in the search."""
    settings: RunSettings
    folder: Path
    """The run's folder."""
    epochs: int
    """The epoch after which training pauses or ends. Epochs count from the start of the run."""


class Trainer(Protocol):
    """A trainer of trials.

    All progress is in the runs' folders. A trainer that was killed at any moment continues from them when it is called
    again.
    """

    def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
        """Train all `runs` that have not reached their epochs. A failure does not stop the others.

        Returns:
            The reason of each failure, by the index of the trial.
        """
        ...

    def score(self, runs: Sequence[TrialRun], metric: str) -> dict[int, float]:
        """Return the `metric` of each trained network on the held-out images, by the index of the trial."""
        ...

    def finish(self, run: TrialRun) -> dict[str, Any]:
        """Stitch the network of a trial, evaluate it on the test images, and return the contents of results.json.

        Training has usually ended. It has only paused if every trial that trained longer has failed.
        """
        ...
