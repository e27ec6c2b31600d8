"""The checks of trainings that are to share a pack."""

from collections.abc import Sequence
from pathlib import Path

from partrain.errors import UserError
from partrain.training.task import SegmentTask


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
