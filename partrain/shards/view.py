"""What a sharded training tells people: how models are cut, how far they are, and a page at the end."""

import time
from collections.abc import Collection
from pathlib import Path

from partrain.launch.display import Display
from partrain.report.formatting import format_duration
from partrain.shards.host_model import HostModel

_LOOK, _TOLD_EVERY = 0.5, 10.0  # seconds


class TrainingView(Display):
    """Shows the models of the training in `folder`; without `show_progress`, lost workers alone."""

    def __init__(self, folder: Path, *, show_progress: bool) -> None:
        super().__init__([], show_progress)
        self._folder = folder
        self._looked = self._told = time.monotonic()

    def joined(self, host_model: HostModel) -> None:
        """A model takes part from now on, cut like this."""
        self.add(host_model.folder, host_model.name)
        if self.show and host_model.is_prepared:
            count, seconds = len(host_model.spec.shards), sum(cost.seconds for cost in host_model.costs)
            self.print(
                f"{host_model.name}: {count} shard{'s' * (count != 1)}, {1000 * seconds:.1f} ms a step in a trial"
            )

    def look(self, host_models: Collection[HostModel], left: float) -> None:
        """Show how far `host_models` are, with about so many seconds `left` for all of them."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for host_model in host_models:
            self.update(host_model.folder)
        if self.show and now - self._told > _TOLD_EVERY:
            self._told = now
            self.print(
                f"{len(host_models)} model{'s' * (len(host_models) != 1)} left, for about {format_duration(left)}"
            )

    def failed(self, name: str, error: Exception) -> None:
        if self.show:
            self.print(f"{name} FAILED: {(str(error) or type(error).__name__).splitlines()[0]}; the others go on")

    def write_page(self) -> None:
        """Which device computed what when, as a page."""
        from partrain.shards.page import write_shards_page  # plotly, which training need not wait for

        page = write_shards_page(self._folder)
        if self.show:
            self.print(f"Page: {page}")
