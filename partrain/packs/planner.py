"""The division of trainings among processes: packs of those that are stacked, and a process for each of the others.

Trainings are stacked by device and shape, as far as stacking pays. Which trainings share a pack decides the last bits of
their results. The packs are therefore written to disk before the first step, and a run that resumes uses them again.
"""

import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from json import dumps, loads
from pathlib import Path

import torch

from partrain.console import console
from partrain.device import free_bytes, num_cores
from partrain.launch.job import Job
from partrain.launch.settings import GroupingSettings, LaunchSettings
from partrain.networks import Chain, network_settings_from_dict
from partrain.packs.autotune import MeasureStep, StackTimings, autotune, max_stack_size, measure_step
from partrain.packs.graph import structure
from partrain.packs.settings import PackSettings
from partrain.packs.task import PackMember, PackTask
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_LIST
from partrain.training.optimization import resolve_precision
from partrain.training.task import SegmentTask

_ENGINE = "partrain.packs.pack"

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""Environment variables of glibc's allocator for packs, in bytes; see `launch.job.ALLOCATOR` for single trainings.

A stack's temporary tensors are M times as large as a training's. glibc takes no mmap threshold above 32 MiB.
"""

TimingCache = dict[Hashable, StackTimings]
"""Measured timings by shape."""


@dataclass(frozen=True, kw_only=True)
class PendingTraining:
    """A training that is to run until its end or its pause."""

    folder: Path
    task: SegmentTask
    name: str
    """The name that messages give it."""
    cost: float
    """Its amount of computation, in a unit that all trainings of a plan share."""
    pause_after: int | None = None
    """The epoch after which it pauses, or None if it trains to its end."""


@dataclass(frozen=True)
class ShapeGroup:
    """Trainings of one shape on one device, and in how large stacks they train."""

    trainings: Sequence[PendingTraining]
    stack_size: int
    """How many are stacked at most; 1 if none are."""
    timings: StackTimings | None = None
    """The measurement that the stack size follows, if there was one."""


@dataclass(frozen=True, kw_only=True)
class PackPlanner:
    """A planner that turns trainings into jobs, each a process that trains a pack or a single training."""

    grouping: GroupingSettings
    launch: LaunchSettings
    folder: Path
    """The folder for the packs and for packs.json, the list of their names."""
    one_process_per_core: bool = False
    """Whether trainings that are not stacked share as many processes as run at once, instead of one each."""
    show_timings: bool = False
    """Whether to print, for each shape that was measured, how its trainings will train."""
    timings: TimingCache = field(default_factory=dict)
    """Timings measured so far. Shapes in it are not measured again, and new ones are added."""
    measure: MeasureStep = measure_step
    """The function that times a step of a stack."""

    def plan(self, trainings: Sequence[PendingTraining]) -> list[Job]:
        """Return a job for every pack with a pending member, then one for every training in no pack.

        Raises:
            UserError: If a training does not fit into the memory that packs may take.
        """
        pending = {training.folder: training for training in trainings}
        jobs = []
        for pack_folder in self.read_or_write_packs(trainings):
            folders = PackTask.read(pack_folder).member_folders(pack_folder)
            members = [pending.pop(folder) for folder in folders if folder in pending]
            if members:
                jobs.append(pack_job(pack_folder, members))
        return jobs + [single_job(training) for training in pending.values()]

    def read_or_write_packs(self, trainings: Sequence[PendingTraining]) -> list[Path]:
        """Return the folders of the packs that were written before, or else write packs of `trainings`."""
        path = self.folder / PACK_LIST
        if not isinstance(self.grouping, PackSettings) and not self.one_process_per_core:
            return []
        if path.exists():
            return [self.folder / name for name in checkpoint.read_json(path)]
        packs = self.divide(trainings)
        for name, groups in packs.items():
            write_pack(self.folder / name, groups)
        checkpoint.write_json(path, list(packs))
        return [self.folder / name for name in packs]

    def divide(self, trainings: Sequence[PendingTraining]) -> dict[str, list[ShapeGroup]]:
        """Return the groups of each pack, by the pack's name."""
        stacked: dict[str, list[ShapeGroup]] = defaultdict(list)
        single: dict[str, list[PendingTraining]] = defaultdict(list)
        for group in self.group_by_shape(trainings):
            self.print_timings(group)
            device = group.trainings[0].task.device
            if group.stack_size > 1:
                stacked[device].append(group)
            else:
                single[device] += group.trainings

        packs = {_folder_name(device): groups for device, groups in stacked.items()}
        if self.one_process_per_core:
            for device, remaining in single.items():
                for number, share in enumerate(_deal_out(remaining, num_processes(device, self.launch))):
                    packs[f"{_folder_name(device)}-{number}"] = [ShapeGroup(share, 1)]
        return packs

    def print_timings(self, group: ShapeGroup) -> None:
        """Print how the trainings of a group will train, if that was measured and is to be shown."""
        if not self.show_timings or group.timings is None:
            return
        count = len(group.trainings)
        which = f"{group.trainings[0].name} and {count - 1} more of the same shape"
        console.print(f"{which} train {group.timings.describe(count)}", markup=False)

    def group_by_shape(self, trainings: Sequence[PendingTraining]) -> list[ShapeGroup]:
        """Return `trainings` grouped by shape, each group with the stack size that the settings ask for.

        Raises:
            UserError: If one training of a group does not fit into the memory that packs may take.
        """
        trainings_by_shape: dict[Hashable, list[PendingTraining]] = defaultdict(list)
        for training in trainings:
            trainings_by_shape[_shape(training)].append(training)
        return [self.size_group(shape, members) for shape, members in trainings_by_shape.items()]

    def size_group(self, shape: Hashable, trainings: Sequence[PendingTraining]) -> ShapeGroup:
        """Return the group of all `trainings` of a shape, with the size of their stacks."""
        if not isinstance(self.grouping, PackSettings) or len(trainings) == 1:
            return ShapeGroup(trainings, 1)
        tasks = [training.task for training in trainings]
        budget = pack_budget(tasks[0].device, self.grouping)
        with _threads_of(self.launch):
            if not self.grouping.trial:
                return ShapeGroup(trainings, min(len(tasks), max_stack_size(tasks, budget)))
            timings = self.timings[shape].restrict_to(len(tasks)) if shape in self.timings else None
            if timings is None:
                timings = self.timings[shape] = autotune(tasks, budget, self.measure)
            return ShapeGroup(trainings, timings.choose_size(len(tasks)), timings)


# ---- jobs and packs


def single_job(training: PendingTraining) -> Job:
    """Return the process that trains one training alone."""
    return Job(training.folder, training.name, training.task.device, training.cost)


def pack_job(pack_folder: Path, members: Sequence[PendingTraining]) -> Job:
    """Return the process that trains `members` as the task in `pack_folder` describes."""
    return Job(
        pack_folder,
        f"pack of {len(members)}",
        members[0].task.device,
        sum(member.cost for member in members),
        _ENGINE,
        ALLOCATOR,
        {member.folder: member.name for member in members},
    )


def write_pack(pack_folder: Path, groups: Sequence[ShapeGroup]) -> None:
    """Write the task of a pack of `groups`, which start one after another, with one stack under way at a time."""
    members: list[PackMember] = []
    capacity = 1
    for group in groups:
        size = _balanced_size(len(group.trainings), group.stack_size)
        capacity = max(capacity, size)
        members += _pack_members(pack_folder, group.trainings, size)
    PackTask(members=members, capacity=capacity).write(pack_folder)


def _pack_members(pack_folder: Path, trainings: Sequence[PendingTraining], stack_size: int) -> Iterator[PackMember]:
    """Yield the entries of trainings of one shape. The first waits until there is room for a whole stack."""
    for number, training in enumerate(trainings):
        yield PackMember(
            folder=os.path.relpath(training.folder, pack_folder),
            pause_after=training.pause_after,
            stack_size=stack_size,
            required_room=stack_size if number == 0 else 1,
        )


def _balanced_size(count: int, largest: int) -> int:
    """Return the size at which `count` trainings make the fewest stacks of at most `largest`, all about equally large."""
    num_stacks = -(-count // largest)
    return -(-count // num_stacks)


def num_processes(device: str, settings: LaunchSettings) -> int:
    """Return how many processes train side by side on `device`."""
    if device != "cpu":
        return 1
    return max(1, num_cores() // settings.threads) if isinstance(settings.threads, int) else num_cores()


def _deal_out(trainings: Sequence[PendingTraining], num_shares: int) -> list[Sequence[PendingTraining]]:
    """Return `trainings` dealt out in turn, like cards, to `num_shares` shares or fewer, so that none is empty."""
    return [trainings[number::num_shares] for number in range(min(num_shares, len(trainings)))]


def _folder_name(device: str) -> str:
    """Return the name of the folder of a device's pack, such as cuda0."""
    return device.replace(":", "")


# ---- shapes and memory


def _shape(training: PendingTraining) -> Hashable:
    """Return what trainings must have in common to be stacked, as far as their tasks determine it.

    A compiled training is stacked with no other, nor is one with projections or with weights that modules share.
    """
    task = training.task
    precision = resolve_precision(task.train.precision, torch.device(task.device))
    network = _structure(dumps(task.network), tuple(task.image_shape), task.num_classes, task.start, task.stop)
    is_unique = task.train.compile or task.projections or network is None
    unique = training.folder if is_unique else None
    return network, task.train.batch_size, precision, task.device, unique


@cache
def _structure(
    network: str, image_shape: tuple[int, ...], num_classes: int, start: str | None, stop: str | None
) -> Hashable | None:
    """Return the structure of the segment between two cuts of a network, which is given by its settings as JSON."""
    chain = Chain.build(network_settings_from_dict(loads(network)), image_shape, num_classes)
    return structure(chain.extract_segment(chain.cut_named(start), chain.cut_named(stop)))


def pack_budget(device: str, settings: PackSettings) -> int:
    """Return how many bytes of `device` a pack may take: those that the settings allow, or else all that are free."""
    if settings.memory_gib is None:
        return free_bytes(torch.device(device))
    return int(settings.memory_gib * 2**30)


@contextmanager
def _threads_of(settings: LaunchSettings) -> Iterator[None]:
    """Compute with as many threads as a process of these settings has, for as long as the context is open."""
    num_threads = torch.get_num_threads()
    try:
        if isinstance(settings.threads, int):
            torch.set_num_threads(settings.threads)
        yield
    finally:
        torch.set_num_threads(num_threads)
