"""Many trainings as one model: the front door of packs for those who have tasks in hand."""

import os
from collections.abc import Sequence
from pathlib import Path

from partrain.packs.pack import Pack
from partrain.packs.task import PackMember, PackTask, check_members


def unify(tasks: Sequence[str | Path], folder: str | Path) -> Pack:
    """Merge the trainings whose `tasks` (their folders) are given into one unified model (UnifiedNN, arXiv 2408.01331).

    They may be whole networks or segments and differ in everything but the device. Those of one shape and batch size are
    stacked: computed as one, step by step, each with its own settings, data order and random numbers; the others step
    beside them. `folder` is for the checkpoint of all that are under way; called again on it, training goes on. `run()`
    trains to the end and leaves in every task's folder what training it alone would; `partrain.load` reads that.

    Raises:
        ValueError: there is no task, one is named twice, one is none, they are on different devices, or `folder` holds
            another pack.
    """
    folder = Path(folder).absolute()
    folders = [Path(task).absolute() for task in tasks]
    check_members(folders)
    count = len(folders)
    task = PackTask(
        members=[PackMember(folder=os.path.relpath(path, folder), stack_size=count) for path in folders],
        capacity=count,
    )
    task.check_folder(folder)
    task.write(folder)
    return Pack(folder, task)
