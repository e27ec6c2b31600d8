"""How far a search is: one bar over the epochs of all its configurations on a terminal, a line per rung elsewhere."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from partrain.console import ProgressDisplay, ProgressView
from partrain.report.formatting import format_duration
from partrain.storage import checkpoint
from partrain.storage.run_folder import PROGRESS, SEGMENTS
from partrain.tuning.brackets import Bracket, promoted, waves
from partrain.tuning.configurations import Configuration
from partrain.tuning.folder import RungResult
from partrain.tuning.settings import METRICS, shown
from partrain.tuning.trainer import Trial
from partrain.tuning.values import described

_BAR = "epochs"


class View(ProgressView):
    """Of `brackets`, `done` waves of which are there already and took `seconds`; without `show`, failures alone.

    `look_every`: seconds between looks at how far configurations are.
    """

    def __init__(
        self,
        brackets: Sequence[Bracket],
        configurations: Sequence[Configuration],
        metric: str,
        done: int,
        seconds: float,
        show: bool,
        to: Console | None = None,
        look_every: float = 1.0,
    ) -> None:
        super().__init__(ProgressDisplay(show=show, estimate=False, to=to))
        self._starts = [wave.start for wave in waves(brackets)]
        self._waves = [wave.epochs(brackets) for wave in waves(brackets)]
        self._configurations = configurations
        self._metric = metric
        self._wave, self._done = done, sum(self._waves[:done])
        self._spent, self._started = seconds, time.monotonic()
        self._trials: Sequence[Trial] = ()
        self._look_every = look_every
        self.progress.add(_BAR, "", sum(self._waves), self._done)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        super().__enter__()
        if self.progress.has_bars:
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        super().__exit__(kind, error, trace)

    def begin(self, trials: Sequence[Trial]) -> None:
        """A wave begins, which trains `trials`."""
        self._trials = trials
        self.progress.update(_BAR, name=f"wave {self._wave + 1}/{len(self._waves)}", status=self._status(self._done))

    def failed(self, index: int, reason: str) -> None:
        self.progress.print(f"{self._configurations[index]} FAILED: {reason}")

    def end(self, results: Sequence[RungResult]) -> None:
        """The wave has ended: show what came of its rungs, and how long the others will take."""
        self._trials = ()
        self._done += self._waves[self._wave]
        self._wave += 1
        left = self._left(self._done)
        self.progress.update(_BAR, completed=self._done, status=self._status(self._done))
        for result in results:
            self.progress.print_line(f"wave {self._wave}/{len(self._waves)}  {self._described(result)}; {left}")

    def _described(self, result: RungResult) -> str:
        size, epochs = len(result.scores), result.epochs
        text = f"bracket {result.bracket} rung {result.rung}: {size} configuration{'s' * (size != 1)} to "
        text += f"{epochs} epoch{'s' * (epochs != 1)}"
        for index in promoted(result.scores, 1, METRICS[self._metric]):
            score = result.scores[index]
            assert score is not None
            best = f"configuration {index}: {described(self._configurations[index].values)}"
            text += f", best {shown(self._metric, score)} ({best})"
            return f"{text}; promoted {len(result.promoted)}" if result.promoted else text
        return f"{text}, all failed"

    def _status(self, done: int) -> str:
        return f"{done}/{sum(self._waves)} epochs  {self._left(done) if done else ''}"

    def _left(self, done: float) -> str:
        """How long what is left will take, if an epoch takes as long as those so far."""
        seconds = self._spent + time.monotonic() - self._started
        left = (sum(self._waves) - done) * seconds / done
        return f"about {format_duration(left)} left" if left else "all done"

    def _watch(self) -> None:
        """Move the bar while configurations train."""
        while not self._ended.wait(self._look_every):
            done = self._done + sum(map(self._trained, self._trials))
            if done:
                self.progress.update(_BAR, completed=done, status=self._status(done))

    def _trained(self, trial: Trial) -> int:
        """Epochs in this wave."""
        return max(0, epochs_seen(trial.folder) - self._starts[self._wave])


def epochs_seen(folder: Path) -> int:
    """Epochs that a configuration has behind it: of its segment that is furthest, as others may end early."""
    states = [checkpoint.read_json(file) for file in folder.glob(f"{SEGMENTS}/*/{PROGRESS}")]
    return max((state["epoch"] - (not state["epoch_ended"]) for state in states), default=0)
