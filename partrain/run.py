"""A run of the main job from settings to results: plan, train the segments, stitch, recover, evaluate, report.

Every step leaves files in the run's folder and is passed over where they are there, so that calling `run` again on the
same folder goes on where it was.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from partrain import checkpoint
from partrain.boundaries import make_codes_at
from partrain.curve import accuracy_curve
from partrain.data import Dataset, prepare
from partrain.data.batches import check_batch_size
from partrain.evaluate import Evaluation, evaluate
from partrain.launch import launch
from partrain.launch.group import launch_group
from partrain.launch.local import Job
from partrain.launch.placement import place
from partrain.loop import CHECKPOINT
from partrain.partition import PartitionSettings, Plan, make_plan
from partrain.progress import timed
from partrain.report.live import LivePage
from partrain.report.tables import print_plan, print_results
from partrain.results import Outcome, gather_results
from partrain.schedule import make_tasks, projections
from partrain.settings import RunSettings, ScheduleSettings
from partrain.stitch import MODEL_FOLDER, ModelCard, stitch
from partrain.strategies.settings import REPLICAS
from partrain.strategies.task import make_rank_tasks
from partrain.task import SegmentTask


def run(settings: RunSettings, folder: str | Path, dataset: Dataset | None = None, show: bool = True) -> dict[str, Any]:
    """Do the run that `settings` describe in `folder`, or go on with it; returns what results.json says.

    With `partition.dry_run` it ends after the plan and returns that. `dataset`: instead of the one `settings.data`
    names, e.g. arrays of one's own (`Dataset.from_arrays`). `show`: the plan, how far training is, and the results.

    Raises:
        ValueError: a setting or a file is not as it should be; the message names it.
        SegmentFailed: a segment's training failed for good; what the others did is kept.
    """
    folder = Path(folder).absolute()
    check_strategy(settings)
    place(settings.launch.device, 1)  # so that a device that is not there is said before data are prepared
    dataset = dataset or prepare(settings.data)
    image_shape = (1, *dataset.image_shape) if len(dataset.image_shape) == 2 else dataset.image_shape
    plan = make_plan(settings.network, image_shape, dataset.num_classes, cuts_of(settings), settings.train.batch_size)
    if show:
        print_plan(plan, settings.train.batch_size)
    check_segments(settings, plan, len(dataset.train))
    tasks = (make_rank_tasks if settings.strategy.is_group else make_tasks)(settings, plan, dataset)
    write_plan(folder, settings, plan, tasks)
    if settings.partition.dry_run:
        return asdict(plan)
    for name, task in tasks.items():
        task.write(folder / name)
    outcome = train_and_evaluate(settings, plan, tasks, dataset, folder, show)
    results = gather_results(settings, plan, tasks, folder, outcome)
    write_plots(folder, outcome.result, [folder / name for name in tasks if name != "recovery"])
    checkpoint.write_json(folder / "results.json", results)
    if settings.report.page:
        from partrain.report.page import write_page

        write_page(folder, dataset)
    if show:
        print_results(results, folder)
    return results


def train_and_evaluate(
    settings: RunSettings, plan: Plan, tasks: Mapping[str, SegmentTask], dataset: Dataset, folder: Path, show: bool
) -> Outcome:
    """Train what is not trained yet, put the network together, and see what it can do."""
    device = place(settings.launch.device, 1)[0]
    parts = [folder / name for name in tasks if name != "recovery"]
    card = _card(settings, plan, dataset)
    train = train_group if settings.strategy.is_group else train_segments
    with LivePage(folder, dataset, settings.report):
        seconds = train(settings, plan, tasks, folder, show)
        stitch(parts, card, folder / MODEL_FOLDER)
        curve = accuracy_curve(folder, parts, settings.strategy.is_group, dataset, device)
        before = None
        if "recovery" in tasks:
            before = evaluate(folder, dataset, device, show)
            seconds += recover(settings, tasks["recovery"], folder, show)
            stitch([folder / "recovery"], card, folder / MODEL_FOLDER)
    result = evaluate(folder, dataset, device, show)
    shutil.rmtree(folder / "boundaries", ignore_errors=True)
    return Outcome(result, before, seconds, curve)


def check_strategy(settings: RunSettings) -> None:
    """Raise `ValueError` where something is set that the strategy does not have."""
    name = settings.strategy.name
    if name != "synthetic" and settings.schedule != ScheduleSettings():
        raise ValueError(f"schedule: strategy={name} has none, only strategy=synthetic has; leave it out")
    if settings.strategy.is_group and settings.train.compile:
        raise ValueError(f"train.compile=true is not for strategy={name}; leave it out")


def cuts_of(settings: RunSettings) -> PartitionSettings:
    """Where the network is cut: nowhere, for strategies that train it whole."""
    whole = settings.strategy.name in ("end_to_end", *REPLICAS)
    return replace(settings.partition, segments=1, at=None) if whole else settings.partition


def check_segments(settings: RunSettings, plan: Plan, num_images: int) -> None:
    """Raise `ValueError` for what would otherwise fail in every segment's process: batches or codes that do not fit."""
    check_batch_size("train.batch_size", settings.train.batch_size, num_images)
    if settings.strategy.is_group:
        return
    if settings.schedule.recovery_epochs:
        check_batch_size("schedule.recovery_batch_size", settings.schedule.recovery_batch_size, num_images)
    for segment in plan.segments[1:]:
        make_codes_at(segment.index, segment.input_shape, plan.num_classes, settings.labels, settings.seed)


def write_plan(folder: Path, settings: RunSettings, plan: Plan, tasks: Mapping[str, SegmentTask]) -> None:
    """Write plan.json and config.yaml; a folder that holds another plan or other tasks is refused and left as it is."""
    others = {str(path.parent.relative_to(folder)) for path in folder.glob("*/*/task.json")} - tasks.keys()
    if others:
        raise ValueError(f"{folder} holds a run of another strategy ({min(others)}); start a new run in a new folder")
    path = folder / "plan.json"
    if path.exists() and checkpoint.read_json(path) != asdict(plan):
        raise ValueError(f"{path} is of another plan than the settings make; start a new run in a new folder")
    for name, task in tasks.items():
        task.check_folder(folder / name)
    checkpoint.write_json(path, asdict(plan))
    checkpoint.write_text(folder / "config.yaml", yaml.safe_dump(settings.to_json(), sort_keys=False))


def train_segments(
    settings: RunSettings, plan: Plan, tasks: Mapping[str, SegmentTask], folder: Path, show: bool
) -> float:
    """Train what is not trained yet, by the schedule; returns the seconds it took, over all the times it was started."""
    jobs: list[Job] = []
    for segment in reversed(plan.segments):
        name = f"segments/{segment.index}"
        if not _finished(folder / name) or (jobs and _outputs_missing(tasks[name], folder / name)):
            work = _work(segment.index, segment.flops)
            jobs.insert(0, Job(folder / name, f"segment {segment.index}", tasks[name].device, work))
    with timed(folder / "segments") as seconds:
        if settings.schedule.name == "sequential":
            for job in jobs:
                launch([job], settings.launch, show)
        elif jobs:
            launch(jobs, settings.launch, show)
    return seconds()


def train_group(settings: RunSettings, plan: Plan, tasks: Mapping[str, SegmentTask], folder: Path, show: bool) -> float:
    """Train by a strategy whose processes depend on one another; returns the seconds, over all the times it was started."""
    jobs = [
        Job(folder / name, f"process {task.index}", task.device, flops, module="partrain.strategies.worker")
        for (name, task), flops in zip(tasks.items(), _flops(plan, len(tasks)), strict=True)
    ]
    with timed(folder / "ranks") as seconds:
        if not all(_finished(job.folder) for job in jobs):
            launch_group(jobs, settings.launch, settings.strategy.port, show)
    return seconds()


def _flops(plan: Plan, count: int) -> list[int]:
    """What each of `count` processes computes: a stage its segment, replicas the same."""
    return [segment.flops for segment in plan.segments] if len(plan.segments) == count else [1] * count


def _outputs_missing(task: SegmentTask, folder: Path) -> bool:
    """Whether the trained segment's outputs, which one to its right is waiting for, are no longer there."""
    return task.stored_output is not None and not (folder / task.stored_output).exists()


def _work(index: int, flops: int) -> float:
    # segments fed synthetic samples reach their floor in about a third of the epochs
    return flops if index == 0 else flops / 3


def recover(settings: RunSettings, task: SegmentTask, folder: Path, show: bool) -> float:
    """Train the stitched network end to end for a few epochs: the same loop, without a cut; returns the seconds."""
    with timed(folder / "recovery") as seconds:
        if not _finished(folder / "recovery"):
            launch([Job(folder / "recovery", "recovery", task.device, 1.0)], settings.launch, show)
    return seconds()


def _finished(folder: Path) -> bool:
    path = folder / CHECKPOINT
    return path.exists() and bool(checkpoint.load_metadata(path)["finished"])


def _card(settings: RunSettings, plan: Plan, dataset: Dataset) -> ModelCard:
    return ModelCard(
        network=plan.network,
        image_shape=plan.input_shape,
        classes=list(dataset.classes),
        mean=dataset.mean,
        std=dataset.std,
        cuts=[] if settings.strategy.is_group else plan.cuts,
        seed=settings.seed,
        labels=asdict(settings.labels),
        projections={} if settings.strategy.is_group else projections(settings, plan),
    )


def write_plots(folder: Path, result: Evaluation, parts: list[Path]) -> None:
    """evaluation.json and the plots."""
    from partrain.report.plots import plot_confusion, plot_curves  # half a second that segments' processes do without

    result.write(folder / "evaluation.json")
    plot_confusion(result, folder / "confusion.png")
    plot_curves([part / "metrics.csv" for part in parts], folder / "curves.png")
