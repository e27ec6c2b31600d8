"""How far a comparison is: one bar over its runs on a terminal, a line per run elsewhere."""

import time

from rich.console import Console

from partrain.comparison.grid import Cell
from partrain.comparison.table import CellRun
from partrain.console import ProgressDisplay, ProgressView
from partrain.report.formatting import format_duration, format_percent

_BAR = "runs"


class ComparisonView(ProgressView):
    """Of `total` runs, `done` of which are there already."""

    def __init__(self, total: int, done: int, to: Console | None = None) -> None:
        super().__init__(ProgressDisplay(estimate=False, to=to))
        self.progress.add(_BAR, "", total, done)
        self._total, self._done = total, done
        self._spent: list[float] = []  # seconds of each run done now
        self._started = 0.0
        self._left = ""

    def begin(self, cell: Cell, repeat: int) -> None:
        self._started = time.monotonic()
        self.progress.update(_BAR, name=f"{cell.name}, repeat {repeat}", status=self._status())

    def end(self, run: CellRun) -> None:
        """Show what came out, and how long the others will take if they take as long as those so far."""
        self._spent.append(time.monotonic() - self._started)
        self._done += 1
        seconds = sum(self._spent) / len(self._spent) * (self._total - self._done)
        self._left = f"about {format_duration(seconds)} left" if seconds else "all done"
        self.progress.update(_BAR, completed=self._done, status=self._status())
        line = f"{self._done}/{self._total}  {run.cell.name}, repeat {run.repeat}: {_seen(run)}; {self._left}"
        tell = self.progress.print_line if run.results else self.progress.print
        tell(line)

    def _status(self) -> str:
        return f"{self._done}/{self._total}  {self._left}"


def _seen(run: CellRun) -> str:
    if not run.results:
        return f"FAILED: {run.outcome}"
    return f"{format_percent(run.results['test_accuracy'])}, {run.results['samples_per_second']:,.0f} samples/s"
