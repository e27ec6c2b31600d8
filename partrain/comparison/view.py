"""The progress display of a comparison: one bar over its runs on a terminal, and a line per run elsewhere."""

import time

from rich.console import Console

from partrain.comparison.grid import Cell
from partrain.comparison.table import CellRun
from partrain.console import ProgressDisplay, ProgressView
from partrain.report.formatting import format_duration, format_percent

_BAR = "runs"


class ComparisonView(ProgressView):
    """A display of how many runs of a comparison have finished, and how long the others will take.

    Args:
        num_runs: The number of runs in all.
        num_finished: The number of runs that had finished before.
        console: Where to show it. By default on standard output.
    """

    def __init__(self, num_runs: int, *, num_finished: int, console: Console | None = None) -> None:
        super().__init__(ProgressDisplay(show_time_left=False, output=console))
        self.progress.add(_BAR, "", num_runs, num_finished)
        self._num_runs, self._num_finished = num_runs, num_finished
        self._run_seconds: list[float] = []
        """The durations of the runs that were displayed."""
        self._started = 0.0
        self._remaining = ""
        """The time that the remaining runs will take, in words."""

    def start_run(self, cell: Cell, repeat: int) -> None:
        """Show which run is now under way."""
        self._started = time.monotonic()
        self.progress.update(_BAR, name=f"{cell.name}, repeat {repeat}", status=self._status())

    def finish_run(self, run: CellRun) -> None:
        """Show the run's outcome, and how long the others will take if they take as long as those so far on average."""
        self._run_seconds.append(time.monotonic() - self._started)
        self._num_finished += 1
        mean_seconds = sum(self._run_seconds) / len(self._run_seconds)
        seconds = mean_seconds * (self._num_runs - self._num_finished)
        self._remaining = f"about {format_duration(seconds)} left" if seconds else "all done"
        self.progress.update(_BAR, completed=self._num_finished, status=self._status())
        counter = f"{self._num_finished}/{self._num_runs}"
        line = f"{counter}  {run.cell.name}, repeat {run.repeat}: {_describe_outcome(run)}; {self._remaining}"
        if run.results:
            self.progress.print_line(line)
        else:
            self.progress.print(line)

    def _status(self) -> str:
        return f"{self._num_finished}/{self._num_runs}  {self._remaining}"


def _describe_outcome(run: CellRun) -> str:
    if not run.results:
        return f"FAILED: {run.outcome}"
    accuracy, speed = format_percent(run.results["test_accuracy"]), run.results["samples_per_second"]
    return f"test accuracy {accuracy}, {speed:,.0f} samples/s"
