"""Helpers: the tasks of several small trainings, and packs of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from partrain import checkpoint
from partrain.data import Dataset
from partrain.loop import CHECKPOINT
from partrain.multi.pack import Pack
from partrain.multi.task import PackTask
from partrain.partition import make_plan
from partrain.schedule import make_tasks
from partrain.settings import RunSettings


def write_tasks(folder: Path, dataset: Dataset, settings: Sequence[RunSettings]) -> list[Path]:
    """The task folders of a run for each of `settings`, in order."""
    folders = []
    for number, each in enumerate(settings):
        plan = make_plan(each.network, (1, *dataset.image_shape), dataset.num_classes, each.partition, 64)
        for name, task in make_tasks(each, plan, dataset).items():
            task.write(folder / str(number) / name)
            folders.append(folder / str(number) / name)
    return folders


def make_pack(folder: Path, members: Sequence[Path], stack_size: int = 99, **changed: Any) -> Pack:
    folder.mkdir(exist_ok=True)
    count = len(members)
    values: dict[str, Any] = {
        "pauses": [None] * count,
        "stack_sizes": [stack_size] * count,
        "room": [1] * count,
        "capacity": count,
    }
    return Pack(folder, PackTask(members=[str(member) for member in members], **values | changed))


def weights(folder: Path) -> dict[str, Tensor]:
    """What a finished training left."""
    tensors, progress = checkpoint.load(folder / CHECKPOINT)
    assert progress["finished"]
    return tensors


def difference(ours: Sequence[Path], theirs: Sequence[Path]) -> float:
    """The largest between any tensors that trainings in `ours` and in `theirs` came to."""
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        left, right = weights(one), weights(other)
        assert left.keys() == right.keys()
        largest = max(largest, *((left[name].double() - right[name].double()).abs().max().item() for name in left))
    return largest
