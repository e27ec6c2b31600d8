"""The executor of `launch=inline`: jobs run in this process, one after another, so that breakpoints work."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from partrain.device import computes_bf16, devices_named, kind_of
from partrain.errors import UserError
from partrain.launch.end import End
from partrain.launch.executor import Slot
from partrain.launch.settings import LaunchSettings
from partrain.launch.worker import run_job
from partrain.rng import unchanged_torch
from partrain.training.context import LocalContext, stop_on_signals
from partrain.training.job import Job


class InlineHandle:
    """A job that has run in this process.

    Args:
        end: The end of the job.
    """

    def __init__(self, end: End) -> None:
        self._end = end

    def poll(self) -> End:
        """Return the job's end."""
        return self._end

    def stop(self) -> None:
        """Do nothing, as the job has ended."""

    def kill(self) -> None:
        """Do nothing, as the job has ended."""

    def send(self, files: Sequence[Path]) -> None:
        """Do nothing, as the job has ended."""


class InlineContext(LocalContext):
    """The context of a job in this process.

    Args:
        device: The device to train on.
        on_report: A function that is called with the folder of a training that has reported its progress.
    """

    def __init__(self, device: str, on_report: Callable[[Path], None]) -> None:
        super().__init__(device)
        self._on_report = on_report

    def report(self, folder: Path, progress: Mapping[str, object]) -> None:
        """Write progress.json in the training's folder, and show it."""
        super().report(folder, progress)
        self._on_report(folder)


class InlineExecutor:
    """An executor that runs each job in this process, from its start to its end.

    Args:
        settings: The device, and the threads to compute with.

    Attributes:
        on_report: A function that is called with the folder of a training that has reported its progress.
    """

    def __init__(self, settings: LaunchSettings) -> None:
        self.settings = settings
        self.device = devices_named(settings.device)[0]
        self.on_report: Callable[[Path], None] = lambda folder: None

    def capacity(self) -> list[Slot]:
        """Return the one device."""
        return [Slot(kind=kind_of(self.device), computes_bf16=computes_bf16(torch.device(self.device)))]

    def start(self, job: Job) -> InlineHandle:
        """Run the job to its end.

        Raises:
            UserError: If the job needs others beside it.
            KeyboardInterrupt: After Ctrl-C or SIGTERM, once the job has written its checkpoint.
        """
        if job.gang is not None or job.resources.devices is None:
            raise UserError(f"launch=inline runs one job after another, but {job.name} needs processes; leave it out")
        context = InlineContext(self.device, self.on_report)
        with unchanged_torch(context.device), stop_on_signals(context):
            if isinstance(self.settings.threads, int):
                torch.set_num_threads(self.settings.threads)
            end = run_job(job, context)
        if context.should_stop():
            raise KeyboardInterrupt
        return InlineHandle(end)

    def share_cores(self, running: Sequence[object]) -> None:
        """Do nothing, as no two jobs run at once."""
