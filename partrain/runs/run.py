"""A run of the main job from settings to results: plan, train the segments, stitch, recover, evaluate, report.

Every step leaves files in the run's folder and is passed over where they are there, so that calling `run` again on the
same folder goes on where it was.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from partrain.data import Dataset
from partrain.launch.group import launch_group
from partrain.launch.job import Job
from partrain.launch.placement import place_whole
from partrain.packs.planner import PendingTraining
from partrain.partition.plan import Plan
from partrain.report.console_tables import print_plan, print_results
from partrain.runs.jobs import train_work
from partrain.runs.page import LivePage, write_run_page
from partrain.runs.prepare import PreparedRun, is_finished, prepare_run, write_plan
from partrain.runs.results import Outcome, gather_results
from partrain.runs.stages import timed, train_together
from partrain.settings import RunSettings
from partrain.stitching.accuracy_curve import accuracy_curve
from partrain.stitching.evaluate import Evaluation, evaluate
from partrain.stitching.stitch import stitch
from partrain.storage import checkpoint
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
from partrain.training.task import SegmentTask


def run(settings: RunSettings, folder: str | Path, dataset: Dataset | None = None, show: bool = True) -> dict[str, Any]:
    """Do the run that `settings` describe in `folder`, or go on with it; returns what results.json says.

    With `partition.dry_run` it ends after the plan and returns that. `dataset`: instead of the one `settings.data`
    names, e.g. arrays of one's own (`Dataset.from_arrays`). `show`: the plan, how far training is, and the results.

    Raises:
        ValueError: a setting or a file is not as it should be; the message names it.
        JobFailed: a segment's training failed for good; what the others did is kept.
    """
    folder = Path(folder).absolute()
    prepared = prepare_run(settings, folder, dataset)
    if show:
        print_plan(prepared.plan, settings.train.batch_size)
    if settings.partition.dry_run:
        write_plan(folder, settings, prepared.plan, prepared.tasks)
        return asdict(prepared.plan)
    prepared.write()
    return complete(prepared, show)


def complete(run: PreparedRun, show: bool = True) -> dict[str, Any]:
    """Do what is left of a run whose tasks are written: train, stitch, evaluate; returns what results.json says."""
    settings, folder = run.settings, run.folder
    outcome = train_and_evaluate(run, show)
    results = gather_results(settings, run.plan, run.tasks, folder, outcome)
    write_plots(folder, outcome.result, [folder / name for name in run.tasks if name != RECOVERY])
    checkpoint.write_json(folder / RESULTS, results)
    if settings.report.page:
        write_run_page(folder, run.dataset)
    if show:
        print_results(results, folder)
    return results


def train_and_evaluate(run: PreparedRun, show: bool) -> Outcome:
    """Train what is not trained yet, put the network together, and see what it can do."""
    settings, plan, tasks, dataset, folder = run.settings, run.plan, run.tasks, run.dataset, run.folder
    device = place_whole(settings.launch.device, sum(segment.parameters for segment in plan.segments))
    parts = [folder / name for name in tasks if name != RECOVERY]
    card = run.card()
    with LivePage(folder, dataset, settings.report):
        if settings.strategy.is_group:
            seconds = train_group(settings, plan, tasks, folder, show)
        else:
            seconds = train_segments(run, show)
        stitch(parts, card, folder)
        curve = accuracy_curve(folder, parts, dataset, device, same_epochs=settings.strategy.is_group)
        before = None
        if RECOVERY in tasks:
            before = evaluate(folder, dataset, device, show_progress=show)
            seconds += recover(settings, tasks[RECOVERY], folder, show)
            stitch([folder / RECOVERY], card, folder)
    result = evaluate(folder, dataset, device, show_progress=show)
    shutil.rmtree(folder / BOUNDARIES, ignore_errors=True)
    return Outcome(result, before, seconds, curve)


def train_segments(run: PreparedRun, show: bool) -> float:
    """Train what is not trained yet, by the schedule; returns the seconds it took, over all the times it was started."""
    with timed(run.folder / SEGMENTS) as seconds:
        train_together([run], run.settings.launch, run.folder / run.settings.launch.subfolder, show)
    return seconds()


def train_group(settings: RunSettings, plan: Plan, tasks: Mapping[str, SegmentTask], folder: Path, show: bool) -> float:
    """Train by a strategy whose processes depend on one another; returns the seconds, over all the times it was started."""
    jobs = [
        Job(folder / name, f"process {task.index}", task.device, flops, module="partrain.strategies.engine")
        for (name, task), flops in zip(tasks.items(), _flops(plan, len(tasks)), strict=True)
    ]
    with timed(folder / RANKS) as seconds:
        if not all(is_finished(job.folder) for job in jobs):
            launch_group(jobs, settings.launch, settings.strategy.port, show)
    return seconds()


def _flops(plan: Plan, count: int) -> list[int]:
    """What each of `count` processes computes: a stage its segment, replicas the same."""
    return [segment.flops for segment in plan.segments] if len(plan.segments) == count else [1] * count


def recover(settings: RunSettings, task: SegmentTask, folder: Path, show: bool) -> float:
    """Train the stitched network end to end for a few epochs: the same loop, without a cut; returns the seconds."""
    with timed(folder / RECOVERY) as seconds:
        if not is_finished(folder / RECOVERY):
            work = [PendingTraining(folder=folder / RECOVERY, task=task, name="recovery", cost=1.0)]
            whole = replace(settings.launch, pack="never")
            train_work(work, whole, folder / whole.subfolder / RECOVERY, show, advise=False)
    return seconds()


def write_plots(folder: Path, result: Evaluation, parts: list[Path]) -> None:
    """evaluation.json and the plots."""
    from partrain.report.plots import plot_confusion, plot_curves  # half a second that segments' processes do without

    result.write(folder / EVALUATION)
    plot_confusion(result, folder / CONFUSION_PLOT)
    plot_curves([part / METRICS for part in parts], folder / CURVES_PLOT)
