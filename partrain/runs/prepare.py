"""A run made ready: its data, its plan and its tasks, checked against one another and written to its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from partrain.boundaries.boundary import make_boundary_codes
from partrain.data import Dataset, prepare_data
from partrain.data.batches import check_batch_size
from partrain.errors import UserError
from partrain.launch.job import Job
from partrain.launch.placement import place
from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.partition.plan import PartitionSettings, Plan, make_plan
from partrain.runs.tasks import make_rank_tasks, make_tasks, projections
from partrain.settings import RunSettings, ScheduleSettings
from partrain.stitching.stitch import ModelCard
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, CONFIG, PLAN, SEARCH_MANIFEST, SEGMENTS, TASK_FILE, segment_name
from partrain.strategies.settings import REPLICAS
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """`tasks` by their folder within `folder`; where they are there already, the run has begun."""

    settings: RunSettings
    folder: Path
    dataset: Dataset
    plan: Plan
    tasks: Mapping[str, SegmentTask]

    def write(self) -> None:
        """Write plan, configuration and tasks; a folder that holds another run is refused and left as it is."""
        write_plan(self.folder, self.settings, self.plan, self.tasks)
        for name, task in self.tasks.items():
            task.write(self.folder / name)

    def card(self) -> ModelCard:
        """What is to be known of the stitched network."""
        settings, plan, dataset = self.settings, self.plan, self.dataset
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

    def segments(self) -> list[str]:
        """Names of the segments' tasks."""
        return [name for name in self.tasks if name.startswith(f"{SEGMENTS}/")]

    def segments_left(self) -> list[Job]:
        """A process for every segment that is not trained yet."""
        jobs: list[Job] = []
        for segment in reversed(self.plan.segments):
            name = segment_name(segment.index)
            folder, task = self.folder / name, self.tasks[name]
            if not is_finished(folder) or (jobs and _outputs_missing(task, folder)):
                jobs.insert(
                    0, Job(folder, f"segment {segment.index}", task.device, _work(segment.index, segment.flops))
                )
        return jobs


def prepare_run(
    settings: RunSettings, folder: str | Path, dataset: Dataset | None = None, num_images: int | None = None
) -> PreparedRun:
    """What the run that `settings` describe is made of; nothing is written. `num_images`: of the training images, the
    first so many (None: all).

    Raises:
        ValueError: a setting or a file is not as it should be; the message names it.
    """
    check_strategy(settings)
    place(settings.launch.device, 1)  # so that a device that is not there is said before data are prepared
    dataset = dataset or prepare_data(settings.data)
    image_shape = (1, *dataset.image_shape) if len(dataset.image_shape) == 2 else dataset.image_shape
    with TORCH_PATCH_LOCK:
        plan = make_plan(
            settings.network, image_shape, dataset.num_classes, cuts_of(settings), settings.train.batch_size
        )
        check_segments(settings, plan, num_images or len(dataset.train))
        tasks = (make_rank_tasks if settings.strategy.is_group else make_tasks)(settings, plan, dataset)
    if num_images is not None:
        tasks = {name: replace(task, num_images=num_images) for name, task in tasks.items()}
    return PreparedRun(settings=settings, folder=Path(folder).absolute(), dataset=dataset, plan=plan, tasks=tasks)


def check_strategy(settings: RunSettings) -> None:
    """Raise `ValueError` where something is set that the strategy does not have."""
    name = settings.strategy.name
    if name != "synthetic" and settings.schedule != ScheduleSettings():
        raise UserError(f"schedule: strategy={name} has none, only strategy=synthetic has; leave it out")
    if settings.strategy.is_group and settings.train.compile:
        raise UserError(f"train.compile=true is not for strategy={name}; leave it out")
    if settings.launch.name == "shards" and settings.strategy.is_group:
        raise UserError(f"launch=shards is not for strategy={name}, whose processes train as one; leave it out")
    if settings.launch.name == "shards" and settings.train.compile:
        raise UserError("train.compile=true is not for launch=shards; leave it out")


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
        make_boundary_codes(segment.index, segment.input_shape, plan.num_classes, settings.labels, settings.seed)


def write_plan(folder: Path, settings: RunSettings, plan: Plan, tasks: Mapping[str, SegmentTask]) -> None:
    """Write plan.json and config.yaml; a folder that holds another plan or other tasks is refused and left as it is."""
    if (folder / SEARCH_MANIFEST).exists():
        raise UserError(f"{folder} holds a search; take a new folder, or go on with it by experiments/search.py")
    others = {str(path.parent.relative_to(folder)) for path in folder.glob(f"*/*/{TASK_FILE}")} - tasks.keys()
    if others:
        raise UserError(f"{folder} holds a run of another strategy ({min(others)}); start a new run in a new folder")
    path = folder / PLAN
    if path.exists() and checkpoint.read_json(path) != asdict(plan):
        raise UserError(f"{path} is of another plan than the settings make; start a new run in a new folder")
    for name, task in tasks.items():
        task.check_folder(folder / name)
    checkpoint.write_json(path, asdict(plan))
    checkpoint.write_text(folder / CONFIG, yaml.safe_dump(settings.to_json(), sort_keys=False))


def _outputs_missing(task: SegmentTask, folder: Path) -> bool:
    """Whether the trained segment's outputs, which one to its right is waiting for, are no longer there."""
    return task.stored_output is not None and not (folder / task.stored_output).exists()


def _work(index: int, flops: int) -> float:
    # segments fed synthetic samples reach their floor in about a third of the epochs
    return flops if index == 0 else flops / 3


def is_finished(folder: Path) -> bool:
    """Whether the training in `folder` has come to its end."""
    path = folder / CHECKPOINT
    return path.exists() and bool(checkpoint.load_metadata(path)["finished"])
