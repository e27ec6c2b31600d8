"""The task of a pack: the trainings it holds, as plain data in pack.json in the pack's own folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import PACK_FILE
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class PackMember:
    """The entry of one training in a pack's task."""

    folder: str
    """The training's folder, relative to the pack's."""
    pause_after: int | None = None
    """The epoch after which the training pauses, or None if it trains to its end."""
    stack_size: int
    """How many trainings of its shape are stacked at most; 1 where stacking does not pay."""
    required_room: int = 1
    """How many more trainings the pack must have room for when this one starts.

    The first training of a shape requires room for a whole stack, so that a shape does not start one by one.
    """


@dataclass(frozen=True, kw_only=True)
class PackTask:
    """The task of a pack: its members, in the order in which they start, and how many train at once at most."""

    members: list[PackMember]
    capacity: int
    """How many members train at once at most, 1 or more."""

    def member_folders(self, pack_folder: Path) -> list[Path]:
        """Return the absolute folders of the members of the pack in `pack_folder`, in their order."""
        return [(pack_folder / member.folder).resolve() for member in self.members]

    def check_folder(self, folder: Path) -> None:
        """Raise `UserError` if `folder` holds a pack of other trainings."""
        path = folder / PACK_FILE
        if not path.exists():
            return
        if [member.folder for member in self.read(folder).members] != [member.folder for member in self.members]:
            raise UserError(f"{path} belongs to a pack of other tasks; give the same tasks, or choose a new folder")

    def write(self, folder: Path) -> None:
        """Write the task to pack.json in `folder`.

        The file holds one list for each field of the members, as it did when packs were first written.
        """
        values = {
            "members": [member.folder for member in self.members],
            "pauses": [member.pause_after for member in self.members],
            "stack_sizes": [member.stack_size for member in self.members],
            "room": [member.required_room for member in self.members],
            "capacity": self.capacity,
        }
        checkpoint.write_json(folder / PACK_FILE, values)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the task in `folder`. Keys that version 0.1 wrote besides are passed over."""
        values: dict[str, Any] = checkpoint.read_json(folder / PACK_FILE)
        columns = zip(values["members"], values["pauses"], values["stack_sizes"], values["room"], strict=True)
        members = [
            PackMember(folder=name, pause_after=pause_after, stack_size=stack_size, required_room=required_room)
            for name, pause_after, stack_size, required_room in columns
        ]
        return cls(members=members, capacity=values["capacity"])


def check_members(folders: Sequence[Path]) -> None:
    """Raise `UserError` unless `folders` hold tasks, each named once, that can train in one pack.

    Raises:
        UserError: If there is no folder, one is named twice, one holds no task, or the tasks are on several devices.
    """
    if not folders:
        raise UserError("A pack needs at least one task, and none was given")
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"{folder} is named twice; name each task of a pack once")
    folder_by_device = {SegmentTask.read(folder).device: folder for folder in folders}
    if len(folder_by_device) > 1:
        (one, first), (other, second), *_ = folder_by_device.items()
        raise UserError(
            f"{first} is on {one}, {second} on {other}: a pack trains on one device; make a pack for each device"
        )
