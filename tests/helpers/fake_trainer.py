"""A trainer for tests of searches: it trains nothing, has scores from a formula, and records its calls in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint
from partrain.tuning.trainer import TrialRun


class FakeTrainer:
    """A trainer whose trials reach their epochs at once.

    Args:
        failing: After how many epochs a trial fails, by index, for trials that fail.
        scores: Scores of trials, by index, in place of the formula's.
    """

    def __init__(self, failing: dict[int, int] | None = None, scores: dict[int, float] | None = None) -> None:
        self.failing, self.scores = failing or {}, scores or {}
        self.calls: list[list[tuple[int, int]]] = []
        """The (index, epochs) of every run, for each call of `train`."""
        self.finished: list[tuple[int, int]] = []
        """The (index, epochs) of every call of `finish`."""

    def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
        """Write the epochs of all `runs` into their folders, and return the reason of each failure, by trial."""
        self.calls.append([(run.index, run.epochs) for run in runs])
        failures = {}
        for run in runs:
            fails_at = self.failing.get(run.index, run.epochs)
            if fails_at < run.epochs:
                failures[run.index] = f"segment 0: the loss is nan; see {run.folder}/log.txt\nTraceback"
                continue
            epochs = trained_epochs(run.folder)
            assert epochs <= run.epochs, f"configuration {run.index} is beyond {run.epochs} epochs"
            if epochs < run.epochs:
                checkpoint.write_json(run.folder / "trained.json", [*range(1, run.epochs + 1)])
        return failures

    def score(self, runs: Sequence[TrialRun], metric: str) -> dict[int, float]:
        """Return the score of each run, by trial."""
        assert all(trained_epochs(run.folder) == run.epochs for run in runs)
        return {run.index: self.scores.get(run.index, formula(run)) for run in runs}

    def finish(self, run: TrialRun) -> dict[str, Any]:
        """Write and return results whose test accuracy is slightly below the score."""
        self.finished.append((run.index, run.epochs))
        results = {"test_accuracy": formula(run) - 0.01}
        checkpoint.write_json(run.folder / "results.json", results)
        return results


def trained_epochs(folder: Path) -> int:
    """Return how many epochs the run in `folder` has trained, according to its files."""
    path = folder / "trained.json"
    return len(checkpoint.read_json(path)) if path.exists() else 0


def formula(run: TrialRun) -> float:
    """Return a score that is higher for a larger learning rate, up to 0.01, and for more epochs."""
    rate = run.settings.train.lr
    return round(min(rate, 1e-4 / rate) * 50 * (1 - 0.5**run.epochs), 6)
