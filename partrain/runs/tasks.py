"""The tasks of a run: one per segment, with the inputs that the schedule gives it, or one per rank of a group."""

from dataclasses import replace
from typing import Any

from partrain.boundaries.boundary import needs_projection
from partrain.data import Dataset
from partrain.data.held_out import num_training_images
from partrain.networks import NETWORKS, Chain
from partrain.partition.plan import Plan, SegmentPlan
from partrain.settings import RunSettings, Sequential
from partrain.storage.run_folder import MODEL_WEIGHTS, RECOVERY, rank_name, segment_name, stored_outputs
from partrain.strategies.settings import GangSettings, PipelineSettings
from partrain.strategies.task import RankTask
from partrain.training.task import SegmentTask


def make_tasks(settings: RunSettings, plan: Plan, dataset: Dataset, kind: str) -> dict[str, SegmentTask]:
    """Return the tasks of the segments, and of the recovery if there is one, by their folder within the run.

    Args:
        settings: The run's settings.
        plan: The segments of its network.
        dataset: Its data.
        kind: The kind of device to train on.
    """
    common = _common_fields(settings, plan, dataset, kind)
    tasks = {}
    for segment in plan.segments:
        index = segment.index
        tasks[segment_name(index)] = SegmentTask(
            index=index,
            stored_input=stored_outputs(index) if _is_stored(settings, plan, index) else None,
            stored_output=stored_outputs(index + 1) if _is_stored(settings, plan, index + 1) else None,
            **_segment_fields(segment, settings),
            **common,
        )
    if settings.schedule.recovery_epochs:
        tasks[RECOVERY] = _recovery_task(settings, plan, common)
    return tasks


def make_rank_tasks(settings: RunSettings, plan: Plan, dataset: Dataset, kind: str) -> dict[str, RankTask]:
    """Return the tasks of a group's ranks by their folder within the run; see `make_tasks`."""
    strategy, num_ranks = settings.strategy, settings.partition.num_segments
    assert isinstance(strategy, GangSettings)
    common = _common_fields(settings, plan, dataset, kind)
    # Replicas all hold the whole network, which is the only segment of their plan.
    segments = plan.segments * num_ranks if strategy.has_replicas else plan.segments
    return {
        rank_name(index): RankTask(
            index=index,
            strategy=strategy.name,
            num_ranks=num_ranks,
            microbatches=strategy.microbatches if isinstance(strategy, PipelineSettings) else 1,
            timeout=strategy.timeout,
            **_segment_fields(segment, settings),
            **common,
        )
        for index, segment in enumerate(segments)
    }


def _segment_fields(segment: SegmentPlan, settings: RunSettings) -> dict[str, Any]:
    """Return the fields of a task that describe its part of the network and how that is trained."""
    return {
        "start": segment.start,
        "stop": segment.stop,
        "start_shape": segment.input_shape,
        "stop_shape": segment.output_shape,
        "train": settings.train,
    }


def _common_fields(settings: RunSettings, plan: Plan, dataset: Dataset, kind: str) -> dict[str, Any]:
    """Return the fields that all tasks of a run have in common."""
    return {
        "network": plan.network,
        "image_shape": plan.input_shape,
        "num_classes": plan.num_classes,
        "labels": settings.labels,
        "seed": settings.seed,
        "data": str(dataset.folder),
        "num_images": num_training_images(dataset, settings.data.validation),
        "validation": settings.data.validation,
        "device": kind,
    }


def _is_stored(settings: RunSettings, plan: Plan, boundary: int) -> bool:
    """Return whether the segment right of `boundary` is trained on stored outputs of the segment to its left."""
    if not isinstance(settings.schedule, Sequential):
        return False
    is_inner = 0 < boundary < len(plan.segments)
    is_last = boundary == len(plan.segments) - 1
    return is_inner and not (is_last and settings.schedule.last_input == "synthetic")


def _recovery_task(settings: RunSettings, plan: Plan, common: dict[str, Any]) -> SegmentTask:
    """Return the task of training the stitched network end to end: that of a segment without cuts."""
    schedule = settings.schedule
    train = replace(
        settings.train,
        epochs=schedule.recovery_epochs,
        lr=schedule.recovery_lr,
        batch_size=schedule.recovery_batch_size,
        warmup=0.05,
        decay=0.95,
    )
    return SegmentTask(
        index=0,
        start=None,
        stop=None,
        start_shape=plan.input_shape,
        stop_shape=[plan.num_classes],
        train=train,
        initial=f"../{MODEL_WEIGHTS}",
        projections=find_projections(settings, plan),
        **common,
    )


def find_projections(settings: RunSettings, plan: Plan) -> dict[str, tuple[int, list[int]]]:
    """Return the projections that the stitched network needs before segments: boundary number and shape by cut name."""
    if len(plan.segments) == 1:
        return {}
    chain = Chain.build(NETWORKS.from_dict(plan.network), plan.input_shape, plan.num_classes)
    projections = {}
    for segment in plan.segments:
        if segment.start is None or _is_stored(settings, plan, segment.index):
            continue
        module = chain.extract_segment(chain.cut_named(segment.start), chain.cut_named(segment.stop))
        if needs_projection(module, settings.labels):
            projections[segment.start] = (segment.index, segment.input_shape)
    return projections
