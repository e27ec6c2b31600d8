"""Which tasks train together: by device and shape, as far as stacking pays; the processes that this makes."""

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from json import dumps, loads
from pathlib import Path

import torch

from partrain.launch.local import LaunchSettings
from partrain.multi.advice import Advice, advise, capacity
from partrain.multi.capacity import free_bytes
from partrain.multi.graph import structure
from partrain.multi.task import PackTask
from partrain.networks import Chain, network_settings
from partrain.optimization import resolve_precision
from partrain.task import SegmentTask


@dataclass(frozen=True)
class Group:
    """Tasks of one shape on one device, by folder, and how many of them are to be stacked (1: none)."""

    tasks: Mapping[Path, SegmentTask]
    stack_size: int
    advice: Advice | None = None

    def seconds(self, stacked: bool) -> float | None:
        """Of a step of one of them, alone or in the best stack, where a trial has told."""
        return None if self.advice is None else self.advice.seconds[self.advice.best if stacked else 1]


Known = dict[Hashable, Advice]  # by shape: what trials have told already


def group(tasks: Mapping[Path, SegmentTask], settings: LaunchSettings, known: Known | None = None) -> list[Group]:
    """Put `tasks` into groups, and see for each whether stacking pays, as far as `settings.pack` asks for it.

    What trials tell is added to `known`, and what is known is not tried again.

    Raises:
        ValueError: one training of a group does not fit into the memory that packs may take.
    """
    shapes: dict[Hashable, dict[Path, SegmentTask]] = defaultdict(dict)
    for folder, task in tasks.items():
        shapes[_shape(folder, task)][folder] = task
    known = {} if known is None else known
    return [_sized(shape, same, settings, known) for shape, same in shapes.items()]


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
    chain = Chain.build(network_settings(loads(network)), image_shape, classes)
    cuts = {cut.name: cut for cut in chain.cuts}
    return structure(chain.segment(cuts.get(start or ""), cuts.get(stop or "")))


def _sized(shape: Hashable, tasks: Mapping[Path, SegmentTask], settings: LaunchSettings, known: Known) -> Group:
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
            advice = known[shape] = advise(list(tasks.values()), allowed)
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
        alone_seconds=[each.seconds(stacked=False) for each in groups for _ in each.tasks],
        stacked_seconds=[each.seconds(stacked=True) for each in groups for _ in each.tasks],
    ).write(folder)
