"""The function `unify`, which trains given tasks as one pack in this process."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from partrain.errors import UserError
from partrain.packs.checks import check_members
from partrain.packs.pack import Pack
from partrain.rng import unchanged_torch
from partrain.storage.lock import hold_lock
from partrain.storage.run_folder import ERROR_FILE, JOB_FILE, PACK_FILE
from partrain.training.job import Job, Member, Resources
from partrain.training.task import SegmentTask


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
    folder = Path(os.path.abspath(folder))
    task_folders = [Path(os.path.abspath(task)) for task in tasks]
    check_members(task_folders)
    _check_folder(folder, task_folders)
    count = len(task_folders)
    job = Job(
        folder=folder,
        kind="pack",
        name=f"pack of {count}",
        members=tuple(Member(folder=path, name=str(path), stack_size=count) for path in task_folders),
        resources=Resources(kind=SegmentTask.read(task_folders[0]).device),
        options={"capacity": count},
    )
    job.write()
    for path in task_folders:
        (path / ERROR_FILE).unlink(missing_ok=True)
    return UnifiedModel(job)


class UnifiedModel(Pack):
    """A pack that its caller runs in this process, which keeps other launchers away meanwhile."""

    def run(self) -> bool:
        """Train all members; see `Pack.run`. The caller's random generators are left as they were.

        Raises:
            UserError: If another launcher uses the pack's folder or a task's.
        """
        with ExitStack() as contexts:
            for folder in (self.folder, *(member.folder for member in self.job.members)):
                contexts.enter_context(hold_lock(folder, "pack"))
            contexts.enter_context(unchanged_torch(self.context.device))
            return super().run()


def _check_folder(folder: Path, tasks: Sequence[Path]) -> None:
    """Raise `UserError` if `folder` holds a pack of other trainings."""
    path = folder / JOB_FILE
    if (folder / PACK_FILE).exists() and not path.exists():
        raise UserError(
            f"{folder} holds a pack of an earlier version; continue with that version, or choose a new folder"
        )
    if path.exists() and [member.folder for member in Job.read(folder).members] != list(tasks):
        raise UserError(f"{path} belongs to a pack of other tasks; give the same tasks, or choose a new folder")
