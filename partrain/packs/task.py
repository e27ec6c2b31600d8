"""A pack's task: which trainings it holds, as plain data in the pack's own folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_FILE
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class PackTask:
    """`members`: the task folders, relative to the pack's. `pauses`: after which epoch each pauses (None: it does not).

    `stack_sizes`: how many of each one's shape are stacked at most, 1 where stacking does not pay. `capacity`: how many
    trainings are under way at once. `room`: how many more there must be room for when each begins, so that a shape begins
    as a whole stack and not one by one.
    """

    members: list[str]
    pauses: list[int | None]
    stack_sizes: list[int]
    room: list[int]
    capacity: int

    def check_folder(self, folder: Path) -> None:
        """Raise `ValueError` where `folder` holds a pack of other members."""
        path = folder / PACK_FILE
        if path.exists() and self.read(folder).members != self.members:
            raise UserError(f"{path} is of a pack of other tasks; give the same ones, or take a new folder")

    def write(self, folder: Path) -> None:
        checkpoint.write_json(folder / PACK_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        known = {field.name for field in fields(cls)}  # packs that were begun by version 0.1 say more
        values = checkpoint.read_json(folder / PACK_FILE)
        return cls(**{name: value for name, value in values.items() if name in known})


def check_members(folders: Sequence[Path]) -> list[SegmentTask]:
    """The tasks in `folders`, which are to be trained in one pack.

    Raises:
        ValueError: there is none, one is named twice, one is no task, or they are on different devices.
    """
    if not folders:
        raise UserError("a pack needs at least one task, there is none")
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"{folder} is named twice; a task can be in a pack once")
    tasks = [SegmentTask.read(folder) for folder in folders]
    devices = {task.device: folder for task, folder in zip(tasks, folders, strict=True)}
    if len(devices) > 1:
        (one, first), (other, second), *_ = devices.items()
        raise UserError(f"{first} is on {one}, {second} on {other}: a pack is on one device; make a pack for each")
    return tasks
