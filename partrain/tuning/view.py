"""The progress of a search: one bar over the epochs of all its trials on a terminal, a line for each rung elsewhere."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from partrain.console import ProgressDisplay, ProgressView
from partrain.report.formatting import format_duration, format_quantity
from partrain.storage import checkpoint
from partrain.storage.run_folder import PROGRESS, SEGMENTS
from partrain.tuning.brackets import Bracket, plan_rounds, select_best
from partrain.tuning.folder import RungResult
from partrain.tuning.settings import METRICS, format_score
from partrain.tuning.trainer import TrialRun
from partrain.tuning.trials import Trial
from partrain.tuning.values import format_values

_BAR = "epochs"


@dataclass(frozen=True, eq=False)
class _TrainingRound:
    """A round under way, as the thread that moves the bar reads it: in one piece, since the next one may begin meanwhile."""

    runs: Sequence[TrialRun]
    """The runs that train in the round."""
    start: int
    """The epoch up to which they have trained before."""
    epochs_done: int
    """Epochs trained in the rounds before, over all trials."""

    def count_epochs(self) -> int:
        """Return how many epochs the search has trained so far, by the progress of the runs."""
        counts = (count_trained_epochs(run.folder) - self.start for run in self.runs)
        return self.epochs_done + sum(max(0, count) for count in counts)


class SearchView(ProgressView):
    """A view of a search's progress, live within `with`.

    Args:
        brackets: The brackets of the search.
        trials: All trials, by index.
        metric: The metric of their scores.
        display: The display of the bar and the lines.
        poll_seconds: Seconds between readings of how far the trials are.
    """

    def __init__(
        self,
        brackets: Sequence[Bracket],
        trials: Sequence[Trial],
        metric: str,
        display: ProgressDisplay,
        poll_seconds: float = 1.0,
    ) -> None:
        super().__init__(display)
        rounds = plan_rounds(brackets)
        self._round_starts = [planned.start for planned in rounds]
        self._round_epochs = [planned.count_epochs(brackets) for planned in rounds]
        self._total_epochs = sum(self._round_epochs)
        self._trials = trials
        self._metric = metric
        self._poll_seconds = poll_seconds

        self._round_number = 0
        self._epochs_done = 0
        """Epochs trained in the rounds that have ended, over all trials."""
        self._seconds_before = 0.0
        """Seconds that the search took before it was continued now."""
        self._started = time.monotonic()
        self._training: _TrainingRound | None = None
        """The round under way, or None between rounds."""

        self.progress.add(_BAR, "", self._total_epochs)
        self._ended = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        super().__enter__()
        if self.progress.has_bars:
            self._poller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        super().__exit__(kind, error, trace)

    # ---- Events of the search.

    def skip_rounds(self, num_finished: int, seconds: float) -> None:
        """Count the first rounds as finished, which took `seconds` when the search ran before."""
        self._round_number = num_finished
        self._epochs_done = sum(self._round_epochs[:num_finished])
        self._seconds_before = seconds
        self.progress.update(_BAR, completed=self._epochs_done)

    def begin_round(self, runs: Sequence[TrialRun]) -> None:
        """Show that the next round begins, which trains `runs`."""
        start = self._round_starts[self._round_number]
        self._training = _TrainingRound(runs, start, self._epochs_done)
        self.progress.update(_BAR, name=self._round_name(), status=self._status(self._epochs_done))

    def report_failure(self, index: int, reason: str) -> None:
        """Print that a trial has failed, and why, even if no progress is shown."""
        self.progress.print(f"FAILED: {self._trials[index]}: {reason}")

    def end_round(self, results: Sequence[RungResult]) -> None:
        """Show that the round has ended, the results of the rungs that ended with it, and the time that is left."""
        name = self._round_name()
        self._training = None
        self._epochs_done += self._round_epochs[self._round_number]
        self._round_number += 1
        remaining = self._remaining_time(self._epochs_done)
        self.progress.update(_BAR, completed=self._epochs_done, status=self._status(self._epochs_done))
        for result in results:
            self.progress.print_line(f"{name}, {self._describe_result(result)}; {remaining}")

    # ---- Texts.

    def _round_name(self) -> str:
        return f"Round {self._round_number + 1}/{len(self._round_epochs)}"

    def _describe_result(self, result: RungResult) -> str:
        """Return the result of a rung in words: its size, its best trial, and how many were promoted."""
        size = format_quantity(len(result.scores), "configuration")
        text = f"bracket {result.bracket}, rung {result.rung}: {size} trained up to epoch {result.epochs}"

        best = select_best(result.scores, 1, higher_is_better=METRICS[self._metric])
        if not best:
            return f"{text}, all failed"
        [index] = best
        score = result.scores[index]
        assert score is not None
        values = format_values(self._trials[index].values)
        text += f", best {format_score(self._metric, score)} (configuration {index}: {values})"
        return f"{text}, {len(result.promoted)} promoted" if result.promoted else text

    def _status(self, epochs_done: int) -> str:
        remaining = self._remaining_time(epochs_done) if epochs_done else ""
        return f"{epochs_done}/{self._total_epochs} epochs  {remaining}"

    def _remaining_time(self, epochs_done: float) -> str:
        """Return the time that is left in words, if an epoch takes as long as those so far."""
        seconds = self._seconds_before + time.monotonic() - self._started
        remaining = (self._total_epochs - epochs_done) * seconds / epochs_done
        return f"about {format_duration(remaining)} left" if remaining else "all done"

    # ---- Readings of how far the trials are, in a thread of their own.

    def _poll(self) -> None:
        """Move the bar while trials train."""
        while not self._ended.wait(self._poll_seconds):
            self.move_bar()

    def move_bar(self) -> None:
        """Show how far the trials of the round are, unless the round ends meanwhile."""
        training = self._training
        epochs_done = training.count_epochs() if training is not None else 0
        if epochs_done and training is self._training:
            self.progress.update(_BAR, completed=epochs_done, status=self._status(epochs_done))


def count_trained_epochs(folder: Path) -> int:
    """Return how many epochs the run in `folder` has trained, by its segment that is furthest: others may end early."""
    states = [checkpoint.read_json_or_empty(file) for file in folder.glob(f"{SEGMENTS}/*/{PROGRESS}")]
    return max((state["epoch"] - (not state["epoch_ended"]) for state in states if state), default=0)
