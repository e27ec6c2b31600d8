"""The division of trainings among processes: packs of those that are stacked, and a process for each of the others.

Trainings are stacked by shape, as far as stacking pays, and an equal part of each shape goes to every device. Which
trainings share a pack decides the last bits of their results. The packs are therefore written to disk before the first
step, and a run that resumes uses them again.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from json import dumps, loads
from pathlib import Path

from partrain.console import console
from partrain.errors import JobFailed, UserError
from partrain.launch.error_report import read_error_report
from partrain.launch.launcher import Launcher
from partrain.networks import NETWORKS, Chain
from partrain.packs.autotune import STACK_SIZES, StackTimings
from partrain.packs.graph import structure
from partrain.packs.settings import Pack
from partrain.packs.trial import read_timings, trial_job
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_LIST, PACK_TRIAL
from partrain.training.job import Job, Member, Resources
from partrain.training.task import PendingTraining

TimingCache = dict[Hashable, StackTimings]
"""Measured timings by shape."""

MeasureShapes = Callable[[Sequence[Sequence[PendingTraining]]], list[StackTimings]]
"""A function that returns the timings of stacks of each shape, of which it is given the trainings."""


@dataclass(frozen=True)
class ShapeGroup:
    """Trainings of one shape that train on one device, and in how large stacks."""

    trainings: Sequence[PendingTraining]
    stack_size: int
    """How many are stacked at most; 1 if none are."""


@dataclass(frozen=True, kw_only=True)
class PackPlanner:
    """A planner that turns trainings into jobs, each a pack or a single training."""

    settings: Pack | None
    """The settings of packs, or None if nothing is stacked."""
    launcher: Launcher
    """The launcher, whose devices packs are dealt to and on which trials run."""
    folder: Path
    """The folder for the packs and for packs.json, the list of their names."""
    one_process_per_core: bool = False
    """Whether trainings that are not stacked share as many processes as run at once, instead of one each."""
    show_timings: bool = False
    """Whether to print, for each shape that was measured, how its trainings will train."""
    timings: TimingCache = field(default_factory=dict)
    """Timings measured so far. Shapes in it are not measured again, and new ones are added."""
    measure: MeasureShapes | None = None
    """The function that measures stacks, in place of a trial job."""

    def plan(self, trainings: Sequence[PendingTraining]) -> list[Job]:
        """Return a job for every pack with a pending member, then one for every training in no pack.

        Raises:
            UserError: If a training does not fit into the memory that packs may take.
        """
        pending = {training.folder: training for training in trainings}
        jobs = []
        for pack_folder in self.read_or_write_packs(trainings):
            pack = Job.read(pack_folder)
            members = [pending.pop(member.folder) for member in pack.members if member.folder in pending]
            if members:
                kind = self.launcher.kind
                cost = sum(member.cost for member in members)
                jobs.append(replace(pack, name=f"pack of {len(members)}", cost=cost, resources=Resources(kind=kind)))
        return jobs + [single_job(training, self.launcher.kind) for training in pending.values()]

    def read_or_write_packs(self, trainings: Sequence[PendingTraining]) -> list[Path]:
        """Return the folders of the packs that were written before, or else write packs of `trainings`.

        Packs of other settings are dealt anew. The trainings keep their checkpoints, which are in their own folders.

        Raises:
            UserError: If the packs are those of an earlier version of partrain.
        """
        if self.settings is None and not self.one_process_per_core:
            return []
        path = self.folder / PACK_LIST
        grouping = None if self.settings is None else asdict(self.settings)
        if path.exists():
            written = checkpoint.read_json(path)
            if isinstance(written, list):
                raise UserError(f"{self.folder} holds packs of an earlier version; continue with that version")
            if written["grouping"] == grouping:
                return [self.folder / name for name in written["packs"]]
            shutil.rmtree(self.folder)

        packs = self.divide(trainings)
        for name, groups in packs.items():
            write_pack(self.folder / name, groups, self.launcher.kind)
        checkpoint.write_json(path, {"grouping": grouping, "packs": list(packs)})
        return [self.folder / name for name in packs]

    # ---- Which trainings share a pack.

    def divide(self, trainings: Sequence[PendingTraining]) -> dict[str, list[ShapeGroup]]:
        """Return the groups of each pack, by the pack's name.

        Every device has a pack of all that is stacked on it. What is not stacked is dealt to as many packs as there are
        processes, if one process per core is asked for.
        """
        kind, num_devices = self.launcher.kind, len(self.launcher.slots)
        stacked: list[list[ShapeGroup]] = [[] for _ in range(num_devices)]
        single: list[PendingTraining] = []
        for group in self.group_by_shape(trainings):
            if group.stack_size == 1:
                single += group.trainings
                continue
            # Each shape begins with the device that has the fewest trainings so far.
            emptiest = sorted(range(num_devices), key=lambda number: sum(len(g.trainings) for g in stacked[number]))
            for number, share in zip(emptiest, _deal_out(group.trainings, num_devices), strict=False):
                stacked[number].append(ShapeGroup(share, group.stack_size))

        packs = {
            kind if num_devices == 1 else f"{kind}{number}": groups for number, groups in enumerate(stacked) if groups
        }
        if self.one_process_per_core:
            num_processes = sum(slot.processes for slot in self.launcher.slots)
            for number, share in enumerate(_deal_out(single, num_processes)):
                packs[f"{kind}-{number}"] = [ShapeGroup(share, 1)]
        return packs

    def group_by_shape(self, trainings: Sequence[PendingTraining]) -> list[ShapeGroup]:
        """Return `trainings` grouped by shape, each group with the size of its stacks on one device.

        Raises:
            UserError: If one training of a group does not fit into the memory that packs may take.
        """
        if self.settings is None:
            return [ShapeGroup(trainings, 1)]
        shapes: dict[Hashable, list[PendingTraining]] = defaultdict(list)
        for training in trainings:
            shapes[_shape(training)].append(training)
        self.measure_shapes(shapes)
        return [self.size_group(shape, members) for shape, members in shapes.items()]

    def measure_shapes(self, shapes: dict[Hashable, list[PendingTraining]]) -> None:
        """Measure the shapes that have several trainings for a device and no timings yet, and remember the timings."""
        missing = [
            shape
            for shape, members in shapes.items()
            if self.num_per_device(members) > 1 and self.known_timings(shape, members) is None
        ]
        if not missing:
            return
        # More than the largest stack is never tried.
        tried = [shapes[shape][: min(self.num_per_device(shapes[shape]), STACK_SIZES[-1])] for shape in missing]
        measured = (self.measure or self.run_trial)(tried)
        self.timings.update(zip(missing, measured, strict=True))

    def run_trial(self, shapes: Sequence[Sequence[PendingTraining]]) -> list[StackTimings]:
        """Return the timings of stacks of each shape, which a job measures.

        Raises:
            UserError: If one training of a shape does not fit into the memory that packs may take.
        """
        assert self.settings is not None
        folder = self.folder / PACK_TRIAL
        job = trial_job(
            folder,
            [[training.folder for training in trainings] for trainings in shapes],
            self.launcher.kind,
            self.settings.memory_bytes,
            times_steps=self.settings.trial,
        )
        try:
            self.launcher.run([job], show_progress=False)
        except JobFailed:
            report = read_error_report(folder)
            if report is not None and report.clear:
                raise UserError(report.message) from None
            raise
        return read_timings(folder)

    def known_timings(self, shape: Hashable, trainings: Sequence[PendingTraining]) -> StackTimings | None:
        """Return the timings of a shape, as far as they apply to so many trainings, or None if they must be measured."""
        timings = self.timings.get(shape)
        if timings is None or not timings.step_seconds:
            return timings
        return timings.restrict_to(self.num_per_device(trainings))

    def num_per_device(self, trainings: Sequence[PendingTraining]) -> int:
        """Return how many of `trainings` one device gets at most."""
        return -(-len(trainings) // len(self.launcher.slots))

    def size_group(self, shape: Hashable, trainings: Sequence[PendingTraining]) -> ShapeGroup:
        """Return the group of all `trainings` of a shape, with the size of their stacks."""
        count = self.num_per_device(trainings)
        timings = self.known_timings(shape, trainings) if count > 1 else None
        if timings is None:
            return ShapeGroup(trainings, 1)
        if not timings.step_seconds:
            return ShapeGroup(trainings, min(count, timings.max_size))
        if self.show_timings:
            which = f"{trainings[0].name} and {len(trainings) - 1} more of the same shape"
            console.print(f"{which} train {timings.describe(count)}")
        return ShapeGroup(trainings, timings.choose_size(count))


# ---- Jobs and packs.


def single_job(training: PendingTraining, kind: str) -> Job:
    """Return the job of one training alone."""
    member = Member(folder=training.folder, name=training.name, pause_after=training.pause_after)
    return Job(
        folder=training.folder,
        kind="segment",
        name=training.name,
        members=(member,),
        resources=Resources(kind=kind),
        cost=training.cost,
    )


def write_pack(pack_folder: Path, groups: Sequence[ShapeGroup], kind: str) -> None:
    """Write the job of a pack of `groups`, which start one after another, with one stack under way at a time."""
    members: list[Member] = []
    capacity = 1
    for group in groups:
        size = _balanced_size(len(group.trainings), group.stack_size)
        capacity = max(capacity, size)
        members += _pack_members(group.trainings, size)
    Job(
        folder=pack_folder,
        kind="pack",
        name=f"pack of {len(members)}",
        members=tuple(members),
        resources=Resources(kind=kind),
        options={"capacity": capacity},
    ).write()


def _pack_members(trainings: Sequence[PendingTraining], stack_size: int) -> Iterator[Member]:
    """Yield trainings of one shape as members. The first waits until there is room for a whole stack."""
    for number, training in enumerate(trainings):
        yield Member(
            folder=training.folder,
            name=training.name,
            pause_after=training.pause_after,
            stack_size=stack_size,
            required_room=stack_size if number == 0 else 1,
        )


def _balanced_size(count: int, largest: int) -> int:
    """Return the size at which `count` trainings make the fewest stacks of at most `largest`, all about equally large."""
    num_stacks = -(-count // largest)
    return -(-count // num_stacks)


def _deal_out(trainings: Sequence[PendingTraining], num_shares: int) -> list[Sequence[PendingTraining]]:
    """Return `trainings` dealt out in turn, like cards, to `num_shares` shares or fewer, so that none is empty."""
    return [trainings[number::num_shares] for number in range(min(num_shares, len(trainings)))]


# ---- Shapes.


def _shape(training: PendingTraining) -> Hashable:
    """Return what trainings must have in common to be stacked, as far as their tasks determine it.

    A compiled training is stacked with no other, nor is one with projections or with weights that modules share.
    """
    task = training.task
    network = _structure(dumps(task.network), tuple(task.image_shape), task.num_classes, task.start, task.stop)
    is_unique = task.train.compile or task.projections or network is None
    unique = training.folder if is_unique else None
    return network, task.train.batch_size, task.train.precision, unique


@cache
def _structure(
    network: str, image_shape: tuple[int, ...], num_classes: int, start: str | None, stop: str | None
) -> Hashable | None:
    """Return the structure of the segment between two cuts of a network, which is given by its settings as JSON."""
    chain = Chain.build(NETWORKS.from_dict(loads(network)), image_shape, num_classes)
    return structure(chain.extract_segment(chain.cut_named(start), chain.cut_named(stop)))
