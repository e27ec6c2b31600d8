"""The schedules: which segments of one run or of several train at once, one stage after another."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from partrain.runs.jobs import JobPlanner
from partrain.runs.prepare import PreparedRun
from partrain.runs.timing import record_grouping
from partrain.settings import Sequential
from partrain.training.task import PendingTraining


def train_together(runs: Sequence[PreparedRun], planner: JobPlanner, folder: Path, *, show_progress: bool) -> None:
    """Train the unfinished segments of `runs`, stage after stage.

    Args:
        runs: The runs, whose tasks are written.
        planner: The planner that groups the trainings of a stage into jobs.
        folder: The folder for the files of jobs of several trainings, with a subfolder per stage.
        show_progress: Whether to show how far the trainings are.

    Raises:
        UserError: If a training does not fit into the memory that it may take.
        JobFailed: If a segment failed for good. It is raised once the others of its stage have finished.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. A job that does not end within 30 s is killed, and has its last
            checkpoint.
    """
    trainings_by_stage = stages(runs)
    for segments in {training.folder.parent for trainings in trainings_by_stage for training in trainings}:
        record_grouping(segments, planner.grouping.name)
    for number, trainings in enumerate(trainings_by_stage):
        jobs = planner.plan(trainings, folder / str(number))
        planner.launcher.run(jobs, show_progress=show_progress)


def stages(runs: Sequence[PreparedRun]) -> list[list[PendingTraining]]:
    """Return the trainings of each stage, in the order of the stages.

    A run with the parallel schedule has all its segments in the first stage. With the sequential schedule, segment k is
    in stage k. A stage in which all segments have finished is empty.
    """
    trainings_by_stage: list[list[PendingTraining]] = []
    for run in runs:
        is_sequential = isinstance(run.settings.schedule, Sequential)
        for training in run.unfinished_segments():
            stage = training.task.index if is_sequential else 0
            while len(trainings_by_stage) <= stage:
                trainings_by_stage.append([])
            if len(runs) > 1:
                training = replace(training, name=f"run {run.folder.name}, {training.name}")
            trainings_by_stage[stage].append(training)
    return trainings_by_stage
