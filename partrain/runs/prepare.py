"""The preparation of a run: its data, its plan and its tasks, checked against one another and written to its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from partrain.boundaries.boundary import make_boundary_codes
from partrain.console import console
from partrain.data import Dataset, prepare_data
from partrain.data.batches import check_batch_size
from partrain.data.held_out import num_training_images
from partrain.device import is_cpu, kind_of
from partrain.errors import UserError
from partrain.launch.launcher import Launcher
from partrain.launch.settings import Inline
from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.partition.cached_plan import cached_plan
from partrain.partition.plan import PartitionSettings, Plan
from partrain.runs.config_file import write_config
from partrain.runs.tasks import find_projections, make_rank_tasks, make_tasks
from partrain.settings import Alone, Parallel, RunSettings
from partrain.shards.settings import Shards
from partrain.stitching.stitch import ModelCard
from partrain.storage.run_folder import (
    CONFIG,
    PLAN,
    RECOVERY,
    RESULTS,
    SEARCH_MANIFEST,
    TASK_FILE,
    rank_name,
    segment_name,
)
from partrain.strategies.settings import check_group
from partrain.strategies.task import RankTask
from partrain.training.completion import has_stored_outputs, is_finished
from partrain.training.task import PendingTraining, SegmentTask

_SYNTHETIC_SPEEDUP = 3
"""The factor by which a segment with synthetic inputs needs fewer epochs than the first segment, roughly."""


def prepare_run(
    settings: RunSettings,
    folder: str | Path,
    dataset: Dataset | None = None,
    launcher: Launcher | None = None,
) -> "PreparedRun":
    """Return the run that `settings` describe, with all that can be known before it trains. Nothing is written.

    Args:
        settings: All that decides the run's outcome, and how it is launched.
        folder: The run's folder. A run that it holds keeps its precision.
        dataset: The data instead of those that `settings.data` names.
        launcher: The launcher of the run, which knows its devices. By default that of `settings.launch`.

    Raises:
        UserError: If a setting or a file is not as it must be.
    """
    check_strategy(settings)
    # A device that does not exist is reported before data are prepared.
    launcher = launcher or Launcher(settings.launch)
    dataset = dataset or prepare_data(settings.data)
    folder = Path(folder).absolute()
    begun = _begun_task(folder, settings)
    num_images = num_training_images(dataset, settings.data.validation)

    plan = plan_run(settings, dataset)
    check_segments(settings, plan, num_images, launcher)
    train = replace(settings.train, precision=_precision(settings, launcher, begun))
    make = make_rank_tasks if settings.strategy.is_group else make_tasks
    with TORCH_PATCH_LOCK:
        tasks = make(replace(settings, train=train), plan, dataset, launcher.kind)
    return PreparedRun(settings=settings, folder=folder, dataset=dataset, plan=plan, tasks=tasks, begun=begun)


def check_search_has_ended(folder: Path) -> None:
    """Raise `UserError` if `folder` is the run of a configuration of a search that has not ended, which trains it."""
    search = folder.absolute().parent.parent
    if (search / SEARCH_MANIFEST).exists() and not (search / RESULTS).exists():
        raise UserError(f"{folder} is a configuration of a search that has not ended; let {search} end first")


def plan_run(settings: RunSettings, dataset: Dataset) -> Plan:
    """Return the segments of the run's network."""
    image_shape = (1, *dataset.image_shape) if len(dataset.image_shape) == 2 else dataset.image_shape
    partition = partition_settings(settings)
    with TORCH_PATCH_LOCK:
        return cached_plan(settings.network, image_shape, dataset.num_classes, partition, settings.train.batch_size)


def _begun_task(folder: Path, settings: RunSettings) -> SegmentTask | None:
    """Return the first task of the run in `folder`, or None if none is written."""
    name, kind = (rank_name(0), RankTask) if settings.strategy.is_group else (segment_name(0), SegmentTask)
    return kind.read(folder / name) if (folder / name / TASK_FILE).exists() else None


def _precision(settings: RunSettings, launcher: Launcher, begun: SegmentTask | None) -> str:
    """Return the precision of the run: the settings', that it began with, or the best that all devices compute in."""
    wanted = settings.train.precision
    if wanted != "auto":
        return wanted
    if begun is not None and begun.train.precision != "auto":
        return begun.train.precision
    return "bf16" if all(slot.computes_bf16 for slot in launcher.slots) else "fp32"


def check_strategy(settings: RunSettings) -> None:
    """Raise `UserError` if something is set that the strategy does not support."""
    strategy, grouping = settings.strategy, settings.grouping
    if strategy.is_group and settings.schedule != Parallel():
        raise UserError(
            f"schedule: strategy={strategy.name} has no schedule, only strategy=synthetic has; leave it out"
        )
    if strategy.is_group and settings.train.compile:
        raise UserError(f"train.compile=true does not work with strategy={strategy.name}; leave it out")
    if strategy.is_group and not isinstance(grouping, Alone):
        raise UserError(
            f"grouping={grouping.name} does not work with strategy={strategy.name}, whose processes train as one; "
            "leave it out"
        )
    if strategy.is_group and isinstance(settings.launch, Inline):
        raise UserError(
            f"launch=inline does not work with strategy={strategy.name}, whose processes train as one; leave it out"
        )
    if isinstance(grouping, Shards) and isinstance(settings.launch, Inline):
        raise UserError(
            "launch=inline does not work with grouping=shards, which has a process for each device; leave it out"
        )
    if isinstance(grouping, Shards) and settings.train.compile:
        raise UserError("train.compile=true does not work with grouping=shards; leave it out")


def partition_settings(settings: RunSettings) -> PartitionSettings:
    """Return where the network is cut: nowhere for strategies in which each process trains the whole network."""
    has_replicas = settings.strategy.has_replicas
    return replace(settings.partition, segments=1, at=None) if has_replicas else settings.partition


def check_segments(settings: RunSettings, plan: Plan, num_images: int, launcher: Launcher) -> None:
    """Raise `UserError` if batches or codes do not fit, which would otherwise fail in every segment's process."""
    check_batch_size("train.batch_size", settings.train.batch_size, num_images)
    if settings.strategy.is_group:
        num_accelerators = None if is_cpu(launcher.kind) else len(launcher.slots)
        num_ranks = settings.partition.num_segments
        check_group(settings.strategy, num_ranks, settings.train.batch_size, num_accelerators)
        return
    if settings.schedule.recovery_epochs:
        check_batch_size("schedule.recovery_batch_size", settings.schedule.recovery_batch_size, num_images)
    for segment in plan.segments[1:]:
        make_boundary_codes(segment.index, segment.input_shape, plan.num_classes, settings.labels, settings.seed)


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that is ready to train. It has begun if its tasks are in its folder already."""

    settings: RunSettings
    folder: Path
    dataset: Dataset
    plan: Plan
    tasks: Mapping[str, SegmentTask]
    """The tasks by their folder within `folder`: "segments/0" ... or "ranks/0" ..., and "recovery" if there is one."""
    begun: SegmentTask | None = None
    """The first task that the folder held already, or None if the run begins."""

    def report_move(self) -> None:
        """Print a line if the run, as its folder has it, began on devices of another kind."""
        kind = next(iter(self.tasks.values())).device
        if self.begun is not None and kind_of(self.begun.device) != kind:
            console.print(f"This run began on {kind_of(self.begun.device)}, and {kind} trains the rest of it.")

    @property
    def has_recovery(self) -> bool:
        """Return whether the stitched network is trained end to end at the end."""
        return RECOVERY in self.tasks

    @property
    def is_end_to_end(self) -> bool:
        """Return whether the network is trained whole by one process."""
        return len(self.plan.segments) == 1 and not self.settings.strategy.is_group

    @property
    def num_parameters(self) -> int:
        """Return the number of parameters of the whole network."""
        return sum(segment.parameters for segment in self.plan.segments)

    def part_names(self) -> list[str]:
        """Return the names of the trainings whose weights make up the network: segments, or ranks of a group."""
        return [name for name in self.tasks if name != RECOVERY]

    def part_folders(self) -> list[Path]:
        """Return the folders of the trainings whose weights make up the network."""
        return [self.folder / name for name in self.part_names()]

    def segment_names(self) -> list[str]:
        """Return the names of the segments' trainings, from left to right; none for a strategy's group."""
        return [] if self.settings.strategy.is_group else self.part_names()

    def unfinished_segments(self) -> list[PendingTraining]:
        """Return the segments still to train, from left to right.

        A finished segment is trained again only to store outputs that are gone, if a later, unfinished one needs them.
        """
        names = self.segment_names()
        unfinished = [index for index, name in enumerate(names) if not is_finished(self.folder / name)]
        last_unfinished = max(unfinished, default=-1)
        return [
            self._pending(index)
            for index in range(len(names))
            if index in unfinished or (index < last_unfinished and not has_stored_outputs(self.folder / names[index]))
        ]

    def _pending(self, index: int) -> PendingTraining:
        """Return the training of segment `index`, with an estimate of its computation as its cost.

        The cost is the FLOPs of a forward pass per image, divided by `_SYNTHETIC_SPEEDUP` for all but the first segment.
        """
        name, flops = segment_name(index), self.plan.segments[index].flops
        cost = flops if index == 0 else flops / _SYNTHETIC_SPEEDUP
        return PendingTraining(folder=self.folder / name, task=self.tasks[name], name=f"segment {index}", cost=cost)

    def model_card(self) -> ModelCard:
        """Return the description of the stitched network."""
        settings, plan, dataset = self.settings, self.plan, self.dataset
        is_group = settings.strategy.is_group
        return ModelCard(
            network=plan.network,
            image_shape=plan.input_shape,
            classes=list(dataset.classes),
            mean=dataset.mean,
            std=dataset.std,
            cuts=[] if is_group else plan.cuts,
            seed=settings.seed,
            labels=asdict(settings.labels),
            projections={} if is_group else find_projections(settings, plan),
        )

    def write(self) -> None:
        """Write the plan, the settings and the tasks.

        Raises:
            UserError: If the folder holds another run or a search. It is left as it is.
        """
        self.write_plan()
        for name, task in self.tasks.items():
            task.write(self.folder / name)

    def write_plan(self) -> None:
        """Write plan.json and config.yaml.

        Raises:
            UserError: If the folder holds another run or a search. It is left as it is.
        """
        self.check_folder()
        self.plan.write(self.folder / PLAN)
        write_config(self.folder / CONFIG, self.settings)

    def check_folder(self) -> None:
        """Raise `UserError` if the folder holds another run, or a search."""
        folder = self.folder
        if (folder / SEARCH_MANIFEST).exists():
            raise UserError(f"{folder} holds a search; take a new folder, or resume it by partrain search")
        written = {str(path.parent.relative_to(folder)) for path in folder.glob(f"*/*/{TASK_FILE}")}
        others = written - self.tasks.keys()
        if others:
            raise UserError(
                f"{folder} holds a run of another strategy ({min(others)}); start a new run in a new folder"
            )
        path = folder / PLAN
        if path.exists() and Plan.read(path) != self.plan:
            raise UserError(f"{path} is of another plan than the settings make; start a new run in a new folder")
        for name, task in self.tasks.items():
            task.check_folder(folder / name)
