"""The schedules: which segments of one run or of several train at once, one stage after another."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from partrain.launch.supervisor import supervise
from partrain.packs.planner import PackPlanner, PendingTraining
from partrain.runs.prepare import PreparedRun
from partrain.runs.sharded_stage import train_in_shards
from partrain.settings import RunSettings
from partrain.shards.settings import ShardSettings


def train_together(runs: Sequence[PreparedRun], settings: RunSettings, folder: Path, *, show_progress: bool) -> None:
    """Train the segments of `runs` that `PreparedRun.unfinished_segments` lists, stage after stage.

    Args:
        runs: The runs. Their tasks must be in their folders already.
        settings: The settings whose `grouping` and `launch` hold for all of them.
        folder: The folder for the files of processes that train several segments, with a subfolder per stage.
        show_progress: Whether to show how far the trainings are, and what packs were measured to gain.

    Raises:
        UserError: If a training does not fit into the memory that it may take.
        JobFailed: If a segment failed for good. It is raised once the others of its stage have finished.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. Every process has written a checkpoint by then, except any that were
            killed after 30 s.
    """
    for number, trainings in enumerate(stages(runs)):
        planner = PackPlanner(
            grouping=settings.grouping,
            launch=settings.launch,
            folder=folder / str(number),
            show_timings=show_progress,
        )
        train_stage(trainings, planner, show_progress=show_progress)


def stages(runs: Sequence[PreparedRun]) -> list[list[PendingTraining]]:
    """Return the trainings of each stage, in the order of the stages.

    A run with the parallel schedule has all its segments in the first stage. With the sequential schedule, segment k is
    in stage k. A stage in which all segments have finished is empty.
    """
    trainings_by_stage: list[list[PendingTraining]] = []
    for run in runs:
        is_sequential = run.settings.schedule.name == "sequential"
        for training in run.unfinished_segments():
            stage = training.task.index if is_sequential else 0
            while len(trainings_by_stage) <= stage:
                trainings_by_stage.append([])
            if len(runs) > 1:
                training = replace(training, name=f"run {run.folder.name}, {training.name}")
            trainings_by_stage[stage].append(training)
    return trainings_by_stage


def train_stage(trainings: Sequence[PendingTraining], planner: PackPlanner, *, show_progress: bool) -> None:
    """Run `trainings` in the grouping that the settings choose: alone, in packs or in shards.

    Args:
        trainings: The trainings, each of which runs to its end or its pause.
        planner: The planner that divides them among processes, with the settings of grouping and launching and a folder.
        show_progress: Whether to show how far they are.

    Raises:
        UserError: If a training does not fit into the memory that it may take.
        JobFailed: If a training failed for good. It is raised once the others have finished.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. Every process has written a checkpoint by then, except any that were
            killed after 30 s.
    """
    if not trainings:
        return
    if isinstance(planner.grouping, ShardSettings):
        train_in_shards(trainings, planner.grouping, planner.launch, planner.folder, show_progress=show_progress)
        return
    supervise(planner.plan(trainings), planner.launch, show_progress=show_progress)
