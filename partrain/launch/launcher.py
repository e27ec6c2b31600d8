"""A launcher: an executor, and the rules under which the jobs on it are supervised."""

from collections.abc import Sequence
from functools import cached_property

from partrain.device import device_names, kind_of
from partrain.launch.executor import Executor, Slot
from partrain.launch.settings import Inline, LaunchSettings, Local
from partrain.launch.supervisor import supervise
from partrain.training.job import Job


class Launcher:
    """A launcher for all jobs of a run, a search or a comparison.

    Args:
        settings: Where jobs run, and how often they are restarted.
        executor: The executor instead of the one that the settings name.

    Raises:
        UserError: If the settings name a device that does not exist.
    """

    def __init__(self, settings: LaunchSettings, executor: Executor | None = None) -> None:
        self.settings = settings
        self.executor = executor or make_executor(settings)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Return the devices that jobs run on, as they are when this is first asked."""
        return tuple(self.executor.capacity())

    @property
    def kind(self) -> str:
        """Return the kind of the devices."""
        return self.slots[0].kind

    @property
    def local_device(self) -> str:
        """Return the device of this machine for what follows the jobs: one of their kind, or the CPU if it has none."""
        here = [name for name in device_names() if kind_of(name) == self.kind]
        return self.settings.device if self.settings.device in here else next(iter(here), "cpu")

    def run(self, jobs: Sequence[Job], *, show_progress: bool) -> None:
        """Run `jobs` until all are done; see `supervise`."""
        if jobs:
            supervise(jobs, self.executor, max_restarts=self.settings.max_restarts, show_progress=show_progress)


def make_executor(settings: LaunchSettings) -> Executor:
    """Return the executor that `settings` name.

    Raises:
        UserError: If there is no such device.
    """
    # Imported here, since not every place to run is installed.
    if isinstance(settings, Inline):
        from partrain.launch.inline import InlineExecutor

        return InlineExecutor(settings)
    from partrain.launch.processes import ProcessExecutor

    assert isinstance(settings, Local)
    return ProcessExecutor(settings)
