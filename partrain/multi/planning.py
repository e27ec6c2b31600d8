"""Which processes train many tasks: packs of those that are to be stacked, and the others.

What is packed with what decides the last bits of the result, so it is written down (packs.json in a folder of its own)
before the first step: called again on the same folder, the same packs go on.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from partrain import checkpoint
from partrain.console import console
from partrain.launch.job import Job
from partrain.launch.local import LaunchSettings
from partrain.launch.placement import num_cores
from partrain.multi.gain import GAIN_FILE
from partrain.multi.grouping import Group, Known, group, write_pack
from partrain.multi.task import PackTask
from partrain.multi.work import Work
from partrain.task import SegmentTask

_MODULE = "partrain.multi.worker"
_PACKS = "packs.json"

# as for one training (`launch.job`), but a stack's temporaries are M times as large; glibc takes no more than 32 MiB
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}


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
    plan = folder / _PACKS
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
    return Job(pack, f"pack of {len(members)}", device, cost, _MODULE, ALLOCATOR, members)


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


def tell_gains(folder: Path) -> None:
    """Say of every pack in `folder` how much faster it was than its trainings one after another would have been."""
    for name in checkpoint.read_json(folder / _PACKS):
        path = folder / name / GAIN_FILE
        if path.exists():
            gain = checkpoint.read_json(path)
            console.print(
                f"pack {folder / name}: {gain['measured']:.2f} times as fast as one after another, "
                f"{gain['predicted']:.2f} predicted by the trial",
                soft_wrap=True,
            )


def at_once(device: str, settings: LaunchSettings) -> int:
    """How many processes train side by side on `device`."""
    if device != "cpu":
        return 1
    return max(1, num_cores() // settings.threads) if isinstance(settings.threads, int) else num_cores()


def _dealt(tasks: Mapping[Path, SegmentTask], hands: int) -> Sequence[Mapping[Path, SegmentTask]]:
    """`tasks` dealt out like cards, none of the hands empty."""
    items = list(tasks.items())
    return [dict(items[number::hands]) for number in range(min(hands, len(items)))]
