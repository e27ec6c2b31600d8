"""The function `unify`, which trains given tasks as one pack in this process."""

import os
from collections.abc import Sequence
from pathlib import Path

from partrain.packs.pack import Pack
from partrain.packs.task import PackMember, PackTask, check_members
from partrain.storage.run_folder import ERROR_FILE


def unify(tasks: Sequence[str | Path], folder: str | Path) -> Pack:
    """Merge the trainings of several tasks into one unified model (UnifiedNN, arXiv 2408.01331).

    The tasks may be whole networks or segments, and may differ in everything but the device. Tasks of one shape and batch
    size are stacked: their steps are computed as one, each with its own settings, data order and random numbers. The
    others train beside them, a step at a time. `run()` of the pack trains to the end. It leaves in every task's folder
    what training it alone would leave, which `partrain.load` reads. A task that failed in an earlier attempt is tried
    again.

    Args:
        tasks: The folders of the tasks.
        folder: The folder for the record of what the pack has done. Called again with it, training resumes.

    Returns:
        The pack, ready to `run()`.

    Raises:
        UserError: If there is no task, one is named twice or a folder holds none. If the tasks are on several devices, or
            `folder` holds a pack of other tasks.
    """
    folder = Path(folder).absolute()
    task_folders = [Path(task).absolute() for task in tasks]
    check_members(task_folders)
    count = len(task_folders)
    members = [PackMember(folder=os.path.relpath(path, folder), stack_size=count) for path in task_folders]
    task = PackTask(members=members, capacity=count)
    task.check_folder(folder)
    task.write(folder)
    for path in task_folders:
        (path / ERROR_FILE).unlink(missing_ok=True)
    return Pack(folder, task)
