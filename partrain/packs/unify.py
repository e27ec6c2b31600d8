"""The function `unify`, which trains given tasks as one pack in this process."""

import os
from collections.abc import Sequence
from pathlib import Path

from partrain.errors import UserError
from partrain.packs.checks import check_members
from partrain.packs.pack import Pack
from partrain.rng import unchanged_torch
from partrain.storage.checkpoint import remove_partial_files
from partrain.storage.lock import hold_locks
from partrain.storage.run_folder import ERROR_FILE, JOB_FILE, PACK_FILE
from partrain.training.context import LocalContext
from partrain.training.job import Job, Member, Resources
from partrain.training.task import SegmentTask


def unify(tasks: Sequence[str | Path], folder: str | Path) -> "UnifiedModel":
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
        The pack, ready to `run()`, which may be called again.

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
    if not (folder / JOB_FILE).exists():
        job.write()
    return UnifiedModel(job)


class UnifiedModel:
    """A pack that its caller trains in this process.

    Args:
        job: The pack's job, which is written in its folder.

    Attributes:
        failures: The messages of the tasks that failed in the last `run`, by their folder relative to the pack's.
            error.json in it has more.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.failures: dict[str, str] = {}

    def run(self) -> bool:
        """Train all tasks from their checkpoints, and leave the caller's random generators as they were.

        Returns:
            Whether every task has finished or failed.

        Raises:
            UserError: If another launcher uses the pack's folder or a task's.
        """
        context = LocalContext(self.job.resources.kind)
        tasks = [member.folder for member in self.job.members]
        with hold_locks([self.job.folder, *tasks], "pack"), unchanged_torch(context.device):
            for folder in (self.job.folder, *tasks):
                remove_partial_files(folder)
            for folder in tasks:
                (folder / ERROR_FILE).unlink(missing_ok=True)
            pack = Pack(self.job, context)
            has_ended = pack.run()
            self.failures = pack.failures
            return has_ended


def _check_folder(folder: Path, tasks: Sequence[Path]) -> None:
    """Raise `UserError` if `folder` holds a pack of other trainings."""
    path = folder / JOB_FILE
    if (folder / PACK_FILE).exists() and not path.exists():
        raise UserError(
            f"{folder} holds a pack of an earlier version; continue with that version, or choose a new folder"
        )
    if path.exists() and [member.folder for member in Job.read(folder).members] != list(tasks):
        raise UserError(f"{path} belongs to a pack of other tasks; give the same tasks, or choose a new folder")
