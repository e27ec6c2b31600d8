"""How much faster a pack was than its trainings one after another would have been."""

from collections.abc import Sequence
from pathlib import Path

from partrain import checkpoint
from partrain.multi.task import PackTask

GAIN_FILE = "gain.json"


class Gain:
    """The seconds of the pack's steps so far, and those of the same steps alone and stacked as the trial had them."""

    def __init__(self, task: PackTask) -> None:
        count = len(task.members)
        alone, stacked = task.alone_seconds or [None] * count, task.stacked_seconds or [None] * count
        self._told = dict(zip(task.members, zip(alone, stacked, strict=True), strict=True))
        self.seconds = self.alone = self.stacked = 0.0

    def count(self, members: Sequence[str]) -> None:
        """A step of `members`, by name, has been done."""
        for member in members:
            alone, stacked = self._told.get(member, (None, None))
            self.alone += alone or 0.0
            self.stacked += stacked or 0.0

    def write(self, folder: Path) -> None:
        """Write gain.json, where a trial has told what to compare with."""
        if self.stacked and self.seconds:
            gains = {"predicted": self.alone / self.stacked, "measured": self.alone / self.seconds}
            checkpoint.write_json(folder / GAIN_FILE, gains)
