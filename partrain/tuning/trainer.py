"""What a search asks of whoever trains its configurations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from partrain.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Configuration `index`, in its run's `folder`, until `epochs` epochs of its whole training are done; then a pause."""

    index: int
    settings: RunSettings
    folder: Path
    epochs: int


class Trainer(Protocol):
    """Trains configurations and scores them; killed at any moment and asked again, goes on from what is in the folders."""

    def train(self, trials: Sequence[Trial]) -> dict[int, str]:
        """Train all that is not trained yet; why those failed that did, by index. The others go on."""
        ...

    def score(self, trials: Sequence[Trial], metric: str) -> dict[int, float]:
        """The `metric` of each on the held-out images, by index."""
        ...

    def finish(self, trial: Trial) -> dict[str, Any]:
        """Put the network together and evaluate it on the test images: what a run's results.json says.

        Its training is at its end, but where all that went further have failed.
        """
        ...
