"""What of one run or several trains at once, one stage after another: the schedules."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from partrain.launch.settings import LaunchSettings
from partrain.packs.planner import PendingTraining
from partrain.runs.jobs import train_work
from partrain.runs.prepare import PreparedRun
from partrain.storage import checkpoint
from partrain.storage.run_folder import TIMING, segment_name


def train_together(runs: Sequence[PreparedRun], settings: LaunchSettings, packs: Path, show: bool) -> None:
    """Train what of `runs` is not trained yet, sequential ones a segment after another. `packs`: a folder.

    Raises:
        JobFailed: a segment failed for good; raised when the others have finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM; every process has written its checkpoint.
    """
    for number, work in enumerate(stages(runs)):
        train_work(work, settings, packs / str(number), show, advise=show)


def stages(runs: Sequence[PreparedRun]) -> list[list[PendingTraining]]:
    """What is to be trained at once, one stage after another; those that are done are empty."""
    found: list[list[PendingTraining]] = []
    for run in runs:
        in_turn = run.settings.schedule.name == "sequential"
        for job in run.segments_left():
            task = run.tasks[segment_name(int(job.folder.name))]
            stage = task.index if in_turn else 0
            found += [[] for _ in range(stage + 1 - len(found))]
            name = f"{run.folder.name}, {job.name}" if len(runs) > 1 else job.name
            found[stage].append(PendingTraining(folder=job.folder, task=task, name=name, cost=job.cost))
    return found


@contextmanager
def timed(folder: Path) -> Iterator[Callable[[], float]]:
    """Adds the time until its end to the seconds in `folder`/timing.json; gives a function that reads them."""
    path = folder / TIMING

    def seconds() -> float:
        return float(checkpoint.read_json(path)["seconds"]) if path.exists() else 0.0

    started = time.perf_counter()
    try:
        yield seconds
    finally:
        with suppress(OSError):  # on a full disk another error says so, and names what could not be saved
            checkpoint.write_json(path, {"seconds": seconds() + time.perf_counter() - started})
