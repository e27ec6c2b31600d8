"""The main job on one screen: prepare a run, train its segments, stitch the network, evaluate it and report.

Every step leaves files in the run's folder, and calling `run` again on the same folder resumes the run. Trainings that
have finished and the accuracy curve are not repeated. Stitching, evaluation and the report are.
"""

import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from partrain.data import Dataset
from partrain.launch.executor import Executor
from partrain.launch.launcher import Launcher
from partrain.report.console_tables import print_plan, print_results
from partrain.runs.command import print_resume_command
from partrain.runs.jobs import JobPlanner, rank_jobs
from partrain.runs.page import LivePage, write_run_page
from partrain.runs.prepare import PreparedRun, check_search_has_ended, prepare_run
from partrain.runs.results import Outcome, gather_results
from partrain.runs.stages import train_together
from partrain.runs.timing import record_seconds, recorded_seconds
from partrain.settings import Alone, RunSettings
from partrain.shards.settings import Shards
from partrain.stitching.accuracy_curve import accuracy_curve
from partrain.stitching.evaluate import evaluate, evaluation_device
from partrain.stitching.stitch import stitch
from partrain.storage import checkpoint
from partrain.storage.checkpoint import remove_partial_files
from partrain.storage.lock import hold_lock
from partrain.storage.run_folder import (
    BOUNDARIES,
    CONFUSION_PLOT,
    CURVES_PLOT,
    EVALUATION,
    METRICS,
    RANKS,
    RECOVERY,
    RESULTS,
    SEGMENTS,
)
from partrain.training.completion import is_finished
from partrain.training.task import PendingTraining


def run(
    settings: RunSettings,
    folder: str | Path,
    dataset: Dataset | None = None,
    *,
    show_progress: bool = True,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Do the run that `settings` describe in `folder`, or resume it if it has begun.

    Args:
        settings: All that decides the run's outcome, and how it is launched.
        folder: The run's folder, which is made if it does not exist.
        dataset: The data instead of those that `settings.data` names, such as `Dataset.from_arrays` of your own arrays.
        show_progress: Whether to print the plan, the progress of training and the results.
        executor: The place where trainings run instead of the one that `settings.launch` names.

    Returns:
        The contents of results.json. With `partition.dry_run` nothing is trained, and it is the plan instead.

    Raises:
        UserError: If a setting or a file is not as it must be, or another launcher uses the folder.
        JobFailed: If the training of a segment failed for good. The progress of all is saved.
        KeyboardInterrupt: After Ctrl-C, or SIGTERM during training. Processes of segments have written a checkpoint by
            then, except any that were killed after 30 s, or that strategy=decoupled ends within an epoch.
    """
    check_search_has_ended(Path(folder))
    launcher = Launcher(settings.launch, executor)
    prepared = prepare_run(settings, folder, dataset, launcher=launcher)
    if show_progress:
        print_plan(prepared.plan, settings.train.batch_size)
    if settings.partition.dry_run:
        prepared.write_plan()
        return asdict(prepared.plan)

    prepared.check_folder()  # A folder of other work is left as it is.
    resume_command = print_resume_command("train", prepared.folder, settings, prepared.dataset)
    with hold_lock(prepared.folder, "run"), resume_command if show_progress else nullcontext():
        if show_progress:
            prepared.report_move()
        prepared.write()
        return finish_run(prepared, launcher, show_progress=show_progress)


def finish_run(prepared: PreparedRun, launcher: Launcher, *, show_progress: bool = True) -> dict[str, Any]:
    """Do all that remains of a run whose tasks are written: train, stitch, recover, evaluate and report.

    Returns:
        The contents of results.json.
    """
    folder, dataset, parts = prepared.folder, prepared.dataset, prepared.part_folders()

    with LivePage(folder, dataset, prepared.settings.report):
        seconds = train(prepared, launcher, show_progress=show_progress)
        model_card = prepared.model_card()  # Only now, since training's start would wait a second for its imports.
        stitch(parts, model_card, folder)
        device = evaluation_device(launcher.local_device, prepared.num_parameters)
        curve = accuracy_curve(folder, parts, dataset, device, same_epochs=prepared.settings.strategy.is_group)

        before_recovery = None
        if prepared.has_recovery:
            before_recovery = evaluate(folder, dataset, device, show_progress=show_progress)
            seconds += recover(prepared, launcher, show_progress=show_progress)
            stitch([folder / RECOVERY], model_card, folder)

    remove_partial_files(folder, recursive=True)  # Not before, since the thread of the live page writes there.
    validation, held_out = prepared.settings.data.validation, None
    if validation is not None:
        held_out = evaluate(folder, dataset, device, validation=validation, show_progress=show_progress)
    outcome = Outcome(
        evaluation=evaluate(folder, dataset, device, show_progress=show_progress),
        held_out=held_out,
        before_recovery=before_recovery,
        seconds=seconds,
        accuracy_curve=curve,
    )
    return report(prepared, outcome, show_progress=show_progress)


def train(prepared: PreparedRun, launcher: Launcher, *, show_progress: bool) -> float:
    """Train the parts of the network that are not trained yet.

    Returns:
        The seconds that this took, over all the times that the run was started.
    """
    settings, folder = prepared.settings, prepared.folder
    if settings.strategy.is_group:
        return train_group(prepared, launcher, show_progress=show_progress)

    planner = JobPlanner(
        grouping=settings.grouping, launcher=launcher, show_timings=show_progress, show_progress=show_progress
    )
    with record_seconds(folder / SEGMENTS):
        train_together([prepared], planner, folder / settings.grouping.subfolder, show_progress=show_progress)
    return recorded_seconds(folder / SEGMENTS)


def train_group(prepared: PreparedRun, launcher: Launcher, *, show_progress: bool) -> float:
    """Train by a strategy whose processes depend on one another, unless all have finished; return as `train` does."""
    jobs = rank_jobs(prepared, launcher.kind)
    with record_seconds(prepared.folder / RANKS):
        if not all(is_finished(job.folder) for job in jobs):
            launcher.run(jobs, show_progress=show_progress)
    return recorded_seconds(prepared.folder / RANKS)


def recover(prepared: PreparedRun, launcher: Launcher, *, show_progress: bool) -> float:
    """Train the stitched network end to end for the recovery epochs; return the seconds as `train` does.

    It is the training of a segment that has no cuts.
    """
    folder, settings = prepared.folder / RECOVERY, prepared.settings
    grouping = settings.grouping if isinstance(settings.grouping, Shards) else Alone()
    planner = JobPlanner(grouping=grouping, launcher=launcher, show_progress=show_progress)
    training = PendingTraining(folder=folder, task=prepared.tasks[RECOVERY], name="recovery", cost=1.0)

    with record_seconds(folder):
        if not is_finished(folder):
            jobs = planner.plan([training], prepared.folder / grouping.subfolder / RECOVERY)
            launcher.run(jobs, show_progress=show_progress)
    return recorded_seconds(folder)


def report(prepared: PreparedRun, outcome: Outcome, *, show_progress: bool) -> dict[str, Any]:
    """Write the evaluation, the plots, results.json and the page; return the contents of results.json."""
    from partrain.report.plots import plot_confusion, plot_curves  # Importing these takes half a second.

    folder = prepared.folder
    # The stored outputs that segments were fed have served their purpose.
    shutil.rmtree(folder / BOUNDARIES, ignore_errors=True)

    results = gather_results(prepared, outcome)
    outcome.evaluation.write(folder / EVALUATION)
    plot_confusion(outcome.evaluation, folder / CONFUSION_PLOT)
    plot_curves([part / METRICS for part in prepared.part_folders()], folder / CURVES_PLOT)
    checkpoint.write_json(folder / RESULTS, results)

    if prepared.settings.report.page:
        write_run_page(folder, prepared.dataset)
    if show_progress:
        print_results(results, folder)
    return results
