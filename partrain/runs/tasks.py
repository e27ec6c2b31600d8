"""Which tasks a run has: a segment's each, fed as the schedule says, or a process's each of a strategy's group."""

from dataclasses import replace
from typing import Any

from partrain.boundaries.boundary import needs_projection
from partrain.data import Dataset
from partrain.launch.placement import place
from partrain.networks import Chain, network_settings_from_dict
from partrain.partition.plan import Plan, SegmentPlan
from partrain.settings import RunSettings
from partrain.storage.run_folder import MODEL_WEIGHTS, RECOVERY, rank_name, segment_name, stored_outputs
from partrain.strategies.settings import REPLICAS, check_group
from partrain.strategies.task import RankTask
from partrain.training.task import SegmentTask


def make_tasks(settings: RunSettings, plan: Plan, dataset: Dataset) -> dict[str, SegmentTask]:
    """The run's segment tasks by their folder within the run: segments/0 ... and, where asked for, recovery."""
    devices = place(settings.launch.device, len(plan.segments))
    common = _common_to_tasks(settings, plan, dataset)
    tasks = {}
    for segment, device in zip(plan.segments, devices, strict=True):
        index = segment.index
        tasks[segment_name(index)] = SegmentTask(
            index=index,
            device=device,
            stored_input=stored_outputs(index) if _is_stored(settings, plan, index) else None,
            stored_output=stored_outputs(index + 1) if _is_stored(settings, plan, index + 1) else None,
            **_part(segment, settings),
            **common,
        )
    if settings.schedule.recovery_epochs:
        tasks[RECOVERY] = _recovery_task(settings, plan, devices[0], common)
    return tasks


def make_rank_tasks(settings: RunSettings, plan: Plan, dataset: Dataset) -> dict[str, RankTask]:
    """The group's tasks by their folder within the run: ranks/0 ...

    Raises:
        ValueError: the strategy cannot work with this many processes or such batches.
    """
    strategy, count = settings.strategy, settings.partition.num_segments
    devices = place(settings.launch.device, count)
    check_group(strategy, count, settings.train.batch_size, devices)
    common = _common_to_tasks(settings, plan, dataset)
    held = plan.segments * count if strategy.name in REPLICAS else plan.segments
    return {
        rank_name(index): RankTask(
            index=index,
            device=device,
            strategy=strategy.name,
            num_ranks=count,
            microbatches=strategy.microbatches,
            timeout=strategy.timeout,
            **_part(segment, settings),
            **common,
        )
        for index, (segment, device) in enumerate(zip(held, devices, strict=True))
    }


def _part(segment: SegmentPlan, settings: RunSettings) -> dict[str, Any]:
    """What a task says of its part of the network, and how that is trained."""
    return {
        "start": segment.start,
        "stop": segment.stop,
        "start_shape": segment.input_shape,
        "stop_shape": segment.output_shape,
        "train": settings.train,
    }


def _common_to_tasks(settings: RunSettings, plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """What every task of a run says alike, whatever its part of the network."""
    return {
        "network": plan.network,
        "image_shape": plan.input_shape,
        "num_classes": plan.num_classes,
        "labels": settings.labels,
        "seed": settings.seed,
        "data": str(dataset.folder),
        "num_images": len(dataset.train),
    }


def _is_stored(settings: RunSettings, plan: Plan, boundary: int) -> bool:
    """Whether the segment right of `boundary` is fed stored outputs of the one to its left."""
    last = len(plan.segments) - 1
    synthetic_last = settings.schedule.last_input == "synthetic"
    return settings.schedule.name == "sequential" and 0 < boundary <= last - synthetic_last


def _recovery_task(settings: RunSettings, plan: Plan, device: str, common: dict[str, Any]) -> SegmentTask:
    """End-to-end training of the stitched network: a segment task without cuts."""
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
        device=device,
        initial=f"../{MODEL_WEIGHTS}",
        projections=projections(settings, plan),
        **common,
    )


def projections(settings: RunSettings, plan: Plan) -> dict[str, tuple[int, list[int]]]:
    """Where the stitched network needs a projection: boundary index and shape by cut name."""
    if len(plan.segments) == 1:
        return {}
    chain = Chain.build(network_settings_from_dict(plan.network), plan.input_shape, plan.num_classes)
    cuts = {cut.name: cut for cut in chain.cuts}
    return {
        segment.start: (segment.index, segment.input_shape)
        for segment in plan.segments
        if segment.start is not None
        and not _is_stored(settings, plan, segment.index)
        and needs_projection(chain.extract_segment(cuts[segment.start], cuts.get(segment.stop or "")), settings.labels)
    }
