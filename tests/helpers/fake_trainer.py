"""A trainer for tests of the search: nothing is trained, scores come from a formula, files say what was done."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint
from partrain.tuning.trainer import Trial


class FakeTrainer:
    """Those in `failing` fail, once they have come so many epochs. `calls`: the (index, epochs) of every `train`."""

    def __init__(self, failing: dict[int, int] | None = None, scores: dict[int, float] | None = None) -> None:
        self.failing, self.scores = failing or {}, scores or {}
        self.calls: list[list[tuple[int, int]]] = []
        self.finished: list[tuple[int, int]] = []

    def train(self, trials: Sequence[Trial]) -> dict[int, str]:
        self.calls.append([(trial.index, trial.epochs) for trial in trials])
        failed = {}
        for trial in trials:
            fails_at = self.failing.get(trial.index, trial.epochs)
            if fails_at < trial.epochs:
                failed[trial.index] = f"segment 0: the loss is nan; see {trial.folder}/log.txt\nTraceback"
                continue
            done = trained(trial.folder)
            assert done <= trial.epochs, f"configuration {trial.index} is beyond {trial.epochs} epochs"
            if done < trial.epochs:
                checkpoint.write_json(trial.folder / "trained.json", [*range(1, trial.epochs + 1)])
        return failed

    def score(self, trials: Sequence[Trial], metric: str) -> dict[int, float]:
        assert all(trained(trial.folder) == trial.epochs for trial in trials)
        return {trial.index: self.scores.get(trial.index, formula(trial)) for trial in trials}

    def finish(self, trial: Trial) -> dict[str, Any]:
        self.finished.append((trial.index, trial.epochs))
        results = {"test_accuracy": formula(trial) - 0.01}
        checkpoint.write_json(trial.folder / "results.json", results)
        return results


def trained(folder: Path) -> int:
    """Epochs that the files say are done."""
    path = folder / "trained.json"
    return len(checkpoint.read_json(path)) if path.exists() else 0


def formula(trial: Trial) -> float:
    """The larger the learning rate up to 0.01, and the more epochs, the better."""
    rate = trial.settings.train.lr
    return round(min(rate, 1e-4 / rate) * 50 * (1 - 0.5**trial.epochs), 6)
