"""Several runs at once: their segments train together, packed where that pays; then each run is finished by itself."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from partrain.data import Dataset
from partrain.launch import LaunchSettings, SegmentFailed
from partrain.multi.dispatch import train_work
from partrain.multi.work import Work
from partrain.prepared import PreparedRun, is_finished, prepare_run
from partrain.progress import timed
from partrain.settings import RunSettings


def run_together(
    runs: Mapping[str | Path, RunSettings], packs: str | Path, dataset: Dataset | None = None, show: bool = True
) -> dict[Path, dict[str, Any]]:
    """Do the `runs`, settings by folder, or go on with them, as one; returns what each one's results.json says.

    Tasks of one shape, from all runs, are packed as the first run's `launch.pack` says, or all are trained in shards, as its
    `launch` says. `packs`: a folder for either.

    Raises:
        ValueError: a setting or a file of a run is not as it should be; nothing has begun.
        SegmentFailed: a segment failed for good; raised when the other runs are finished.
    """
    from partrain.run import run

    prepared = [prepare_run(settings, Path(folder).absolute(), dataset) for folder, settings in runs.items()]
    for each in prepared:
        if each.settings.strategy.is_group:
            raise ValueError(f"{each.folder}: strategy={each.settings.strategy.name} cannot be packed with other runs")
        each.write()
    failure = None
    with ExitStack() as clocks:
        for each in prepared:
            clocks.enter_context(timed(each.folder / "segments"))
        try:
            train_together(prepared, prepared[0].settings.launch, Path(packs).absolute(), show)
        except SegmentFailed as error:
            failure = error
    done = [each for each in prepared if all(is_finished(each.folder / name) for name in each.segments())]
    results = {each.folder: run(each.settings, each.folder, each.dataset, show=False) for each in done}
    if failure is not None:
        raise failure
    return results


def train_together(runs: Sequence[PreparedRun], settings: LaunchSettings, packs: Path, show: bool) -> None:
    """Train what of `runs` is not trained yet, sequential ones a segment after another. `packs`: a folder.

    Raises:
        SegmentFailed: a segment failed for good; raised when the others have finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM; every process has written its checkpoint.
    """
    for number, work in enumerate(stages(runs)):
        train_work(work, settings, packs / str(number), show, advise=show)


def stages(runs: Sequence[PreparedRun]) -> list[Work]:
    """What is to be trained at once, one stage after another; those that are done are empty."""
    found: list[Work] = []
    for run in runs:
        in_turn = run.settings.schedule.name == "sequential"
        for job in run.segments_left():
            task = run.tasks[f"segments/{job.folder.name}"]
            stage = task.index if in_turn else 0
            found += [Work() for _ in range(stage + 1 - len(found))]
            name = f"{run.folder.name}, {job.name}" if len(runs) > 1 else job.name
            found[stage].add(job.folder, task, name, job.cost)
    return found
