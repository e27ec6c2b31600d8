"""What a sharded training tells people: how models are cut, how far it is, and a page at the end."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from partrain.console import console
from partrain.multi.shards.member import Member
from partrain.multi.shards.timeline import TIMELINE
from partrain.report.quantities import duration

_TOLD_EVERY = 10.0  # seconds


class View:
    """Of the training in `folder`; without `show`, what goes wrong alone."""

    def __init__(self, folder: Path, show: bool) -> None:
        self._folder, self._show = folder, show
        self._told = time.monotonic()

    def cut(self, member: Member, seconds: Sequence[float]) -> None:
        """How a model is cut. `seconds`: of each unit of a step, in a trial."""
        if self._show and member.spec is not None:
            count = len(member.spec.shards)
            shards = f"{count} shard{'s' * (count != 1)}"
            self.say(f"{member.folder}: {shards}, {1000 * sum(seconds):.1f} ms a step in a trial")

    def tell(self, members: Sequence[Member], left: float) -> None:
        """How far `members` are, every few seconds, with so many seconds `left`."""
        if self._show and time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            done = sum(member.training.progress.step for member in members)
            steps = sum(member.steps_left.stop for member in members)
            self.say(f"{done:,} of {steps:,} steps of all models, about {duration(left)} left")

    def write_page(self, members: Sequence[Member]) -> None:
        """Which device computed what when, as a page."""
        from partrain.report.shards_page import write_shards_page  # plotly, which training need not wait for

        root = Path(os.path.commonpath([member.folder.parent for member in members]))
        names = [str(member.folder.relative_to(root)) for member in members]
        page = write_shards_page(self._folder, self._folder / TIMELINE, names)
        if self._show:
            self.say(f"Page: {page}")

    def say(self, text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)
