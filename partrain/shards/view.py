"""What a sharded training tells people: how models are cut, how far they are, and a page at the end."""

import time
from collections.abc import Collection
from pathlib import Path

from partrain.launch.display import Display
from partrain.report.formatting import duration
from partrain.shards.member import Member

_LOOK, _TOLD_EVERY = 0.5, 10.0  # seconds


class View(Display):
    """Shows the models of the training in `folder`; without `show`, lost workers alone."""

    def __init__(self, folder: Path, show: bool) -> None:
        super().__init__([], show)
        self._folder = folder
        self._looked = self._told = time.monotonic()

    def joined(self, member: Member) -> None:
        """A model takes part from now on, cut like this."""
        self.add(member.folder, member.name)
        if self.show and member.spec is not None:
            count, seconds = len(member.spec.shards), sum(cost.seconds for cost in member.costs)
            self.print(f"{member.name}: {count} shard{'s' * (count != 1)}, {1000 * seconds:.1f} ms a step in a trial")

    def look(self, members: Collection[Member], left: float) -> None:
        """Show how far `members` are, with about so many seconds `left` for all of them."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for member in members:
            self.update(member.folder)
        if self.show and now - self._told > _TOLD_EVERY:
            self._told = now
            self.print(f"{len(members)} model{'s' * (len(members) != 1)} left, for about {duration(left)}")

    def failed(self, name: str, error: Exception) -> None:
        if self.show:
            self.print(f"{name} FAILED: {(str(error) or type(error).__name__).splitlines()[0]}; the others go on")

    def write_page(self) -> None:
        """Which device computed what when, as a page."""
        from partrain.shards.page import write_shards_page  # plotly, which training need not wait for

        page = write_shards_page(self._folder)
        if self.show:
            self.print(f"Page: {page}")
