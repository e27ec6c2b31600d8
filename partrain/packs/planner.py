"""Which processes train many tasks: packs of those that are to be stacked, and the others.

Tasks are stacked by device and shape, as far as stacking pays. What is packed with what decides the last bits of the
result, so it is written down (packs.json in a folder of its own) before the first step: called again on the same folder,
the same packs go on.
"""

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from json import dumps, loads
from pathlib import Path

import torch

from partrain.console import console
from partrain.device import free_bytes, num_cores
from partrain.launch.job import Job
from partrain.launch.settings import LaunchSettings
from partrain.networks import Chain, network_settings_from_dict
from partrain.packs.autotune import Advice, Measure, advise, capacity
from partrain.packs.graph import structure
from partrain.packs.task import PackTask
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_LIST
from partrain.training.optimization import resolve_precision
from partrain.training.task import SegmentTask

_ENGINE = "partrain.packs.pack"

# as for one training (`launch.job`), but a stack's temporaries are M times as large; glibc takes no more than 32 MiB
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}

Known = dict[Hashable, Advice]  # by shape: what trials have told already


class Work:
    """Trainings to be done, by task folder: their tasks, `names` for people, `costs` in any unit, `pauses` if any."""

    def __init__(self) -> None:
        self.tasks: dict[Path, SegmentTask] = {}
        self.names: dict[Path, str] = {}
        self.costs: dict[Path, float] = {}
        self.pauses: dict[Path, int | None] = {}

    def add(self, folder: Path, task: SegmentTask, name: str, cost: float, pause: int | None = None) -> None:
        self.tasks[folder], self.names[folder], self.costs[folder] = task, name, cost
        self.pauses[folder] = pause


def processes(
    work: Work,
    settings: LaunchSettings,
    folder: Path,
    show: bool,
    queue: bool = False,
    known: Known | None = None,
) -> list[Job]:
    """A job for every pack, and one for every other training, or with `queue` as many as run at once for all of those.

    `folder`: for the packs. `show`: what is advised. `known`: see `group`.

    Raises:
        ValueError: a training does not fit into the memory that packs may take.
    """
    plan = folder / PACK_LIST
    if plan.exists():
        packs = [folder / name for name in checkpoint.read_json(plan)]
    elif settings.pack == "never" and not queue:
        packs = []
    else:
        packs = _write_packs(work, settings, folder, show, queue, known)
        checkpoint.write_json(plan, [pack.name for pack in packs])
    jobs, left = [], dict(work.tasks)
    for pack in packs:
        members = [(pack / name).resolve() for name in PackTask.read(pack).members]
        held = {member: work.names[member] for member in members if left.pop(member, None)}
        if held:
            device = work.tasks[next(iter(held))].device
            jobs.append(pack_job(pack, held, device, sum(work.costs[member] for member in held)))
    return jobs + [Job(path, work.names[path], task.device, work.costs[path]) for path, task in left.items()]


def pack_job(pack: Path, members: dict[Path, str], device: str, cost: float) -> Job:
    """The process that trains `members`, folders and names, as the task in the folder `pack` says."""
    return Job(pack, f"pack of {len(members)}", device, cost, _ENGINE, ALLOCATOR, members)


def _write_packs(
    work: Work, settings: LaunchSettings, folder: Path, show: bool, queue: bool, known: Known | None
) -> list[Path]:
    """The folders of the packs that are made of `work`."""
    stacked: dict[str, list[Group]] = defaultdict(list)
    single: dict[str, dict[Path, SegmentTask]] = defaultdict(dict)
    for found in group(work.tasks, settings, known):
        first, task = next(iter(found.tasks.items()))
        if show and found.advice is not None:
            others = len(found.tasks) - 1
            console.print(
                f"{work.names[first]} and {others} more of its shape: {found.advice.sentence(len(found.tasks))}",
                markup=False,
            )
        if found.stack_size > 1:
            stacked[task.device].append(found)
        else:
            single[task.device] |= found.tasks
    packs = {device.replace(":", ""): groups for device, groups in stacked.items()}
    if queue:
        for device, tasks in single.items():
            for number, part in enumerate(_dealt(tasks, at_once(device, settings))):
                packs[f"{device.replace(':', '')}-{number}"] = [Group(part, 1)]
    for name, groups in packs.items():
        write_pack(folder / name, groups, work.pauses)
    return [folder / name for name in packs]


def at_once(device: str, settings: LaunchSettings) -> int:
    """How many processes train side by side on `device`."""
    if device != "cpu":
        return 1
    return max(1, num_cores() // settings.threads) if isinstance(settings.threads, int) else num_cores()


def _dealt(tasks: Mapping[Path, SegmentTask], hands: int) -> Sequence[Mapping[Path, SegmentTask]]:
    """`tasks` dealt out like cards, none of the hands empty."""
    items = list(tasks.items())
    return [dict(items[number::hands]) for number in range(min(hands, len(items)))]


# ---- what is stacked with what


@dataclass(frozen=True)
class Group:
    """Tasks of one shape on one device, by folder, and how many of them are to be stacked (1: none)."""

    tasks: Mapping[Path, SegmentTask]
    stack_size: int
    advice: Advice | None = None


def group(
    tasks: Mapping[Path, SegmentTask],
    settings: LaunchSettings,
    known: Known | None = None,
    measure: Measure | None = None,
) -> list[Group]:
    """Put `tasks` into groups, and see for each whether stacking pays, as far as `settings.pack` asks for it.

    What trials tell is added to `known`, and what is known is not tried again. `measure`: see `advise`.

    Raises:
        ValueError: one training of a group does not fit into the memory that packs may take.
    """
    shapes: dict[Hashable, dict[Path, SegmentTask]] = defaultdict(dict)
    for folder, task in tasks.items():
        shapes[_shape(folder, task)][folder] = task
    known = {} if known is None else known
    return [_sized(shape, same, settings, known, measure) for shape, same in shapes.items()]


def _shape(folder: Path, task: SegmentTask) -> Hashable:
    """What tasks must have in common to be stacked, as far as it can be told before they are built."""
    precision = resolve_precision(task.train.precision, torch.device(task.device))
    structure = _structure(dumps(task.network), tuple(task.image_shape), task.num_classes, task.start, task.stop)
    own = folder if task.train.compile or task.projections or structure is None else None
    return structure, task.train.batch_size, precision, task.device, own


@cache
def _structure(
    network: str, image_shape: tuple[int, ...], classes: int, start: str | None, stop: str | None
) -> Hashable | None:
    chain = Chain.build(network_settings_from_dict(loads(network)), image_shape, classes)
    cuts = {cut.name: cut for cut in chain.cuts}
    return structure(chain.extract_segment(cuts.get(start or ""), cuts.get(stop or "")))


def _sized(
    shape: Hashable,
    tasks: Mapping[Path, SegmentTask],
    settings: LaunchSettings,
    known: Known,
    measure: Measure | None,
) -> Group:
    if settings.pack == "never" or len(tasks) == 1:
        return Group(tasks, 1)
    first = next(iter(tasks.values()))
    budget = settings.pack_memory_gib
    allowed = free_bytes(torch.device(first.device)) if budget is None else int(budget * 2**30)
    before = torch.get_num_threads()
    try:
        if isinstance(settings.threads, int):
            torch.set_num_threads(settings.threads)
        if settings.pack == "always":
            return Group(tasks, min(len(tasks), capacity(list(tasks.values()), allowed)))
        advice = known[shape].among(len(tasks)) if shape in known else None
        if advice is None:
            advice = known[shape] = advise(list(tasks.values()), allowed, measure)
        return Group(tasks, advice.stack_size(len(tasks)), advice)
    finally:
        torch.set_num_threads(before)


def _even(count: int, size: int) -> int:
    """Of stacks of `count` trainings, none larger than `size`, none much smaller than another."""
    return -(-count // -(-count // size))


def write_pack(folder: Path, groups: Sequence[Group], pauses: Mapping[Path, int | None]) -> None:
    """Write the task of a pack of `groups`: one shape after another, as many trainings at once as are stacked."""
    paths = [path for each in groups for path in each.tasks]
    sizes = [_even(len(each.tasks), each.stack_size) for each in groups]
    PackTask(
        members=[os.path.relpath(path, folder) for path in paths],
        pauses=[pauses.get(path) for path in paths],
        stack_sizes=[size for each, size in zip(groups, sizes, strict=True) for _ in each.tasks],
        room=[room for each, size in zip(groups, sizes, strict=True) for room in (size, *[1] * (len(each.tasks) - 1))],
        capacity=max(sizes),
    ).write(folder)
