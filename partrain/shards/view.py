"""The progress of a sharded training on the terminal, and its page at the end."""

import time
from collections.abc import Collection
from pathlib import Path

from partrain.launch.display import Display
from partrain.report.formatting import format_duration, format_quantity
from partrain.shards.host_model import HostModel

_UPDATE_SECONDS = 0.5
"""Seconds between updates of the models' bars."""
_SUMMARY_SECONDS = 10.0
"""Seconds between the lines that say how much is left."""


class TrainingView(Display):
    """A view of the models in a sharded training: how each is cut, how far it is, and how long all will take.

    Args:
        folder: The folder of the sharded training.
        show_progress: Whether progress is shown. Lost workers are reported anyway.
    """

    def __init__(self, folder: Path, *, show_progress: bool) -> None:
        super().__init__([], show_progress=show_progress)
        self._folder = folder
        self._updated_at = self._summarized_at = time.monotonic()

    def add_model(self, model: HostModel) -> None:
        """Show a model that joins, and how it is cut."""
        self.add(model.folder, model.name)
        if self.show_progress and model.is_prepared:
            milliseconds = 1000 * sum(cost.seconds for cost in model.costs)
            self.print(
                f"{model.name}: {format_quantity(len(model.spec.shards), 'shard')}, {milliseconds:.1f} ms a step in a trial"
            )

    def update_models(self, models: Collection[HostModel], remaining_seconds: float) -> None:
        """Show how far each model is, and from time to time how many seconds are left for all of them together."""
        now = time.monotonic()
        if now - self._updated_at < _UPDATE_SECONDS:
            return
        self._updated_at = now
        for model in models:
            self.update(model.folder)
        if self.show_progress and now - self._summarized_at > _SUMMARY_SECONDS:
            self._summarized_at = now
            self.print(
                f"{format_quantity(len(models), 'model')} left, about {format_duration(remaining_seconds)} to go"
            )

    def report_failure(self, name: str, error: Exception) -> None:
        """Print that a model failed, with the first line of its error."""
        if self.show_progress:
            message = str(error) or type(error).__name__
            self.print(f"{name} FAILED: {message.splitlines()[0]}; the other models continue")

    def report_lost_worker(self, number: int, reason: str, num_models: int) -> None:
        """Print that a worker was replaced, and how many models go back to their checkpoints."""
        self.print(
            f"Worker {number} {reason}; a new process replaces it, "
            f"and {format_quantity(num_models, 'model')} will resume from the last checkpoint"
        )

    def write_page(self) -> None:
        """Write the page on which device computed what when, and print where it is."""
        # It imports plotly, which takes long and is not needed to train.
        from partrain.shards.page import write_shards_page

        page = write_shards_page(self._folder)
        if self.show_progress:
            self.print(f"Page: {page}")
