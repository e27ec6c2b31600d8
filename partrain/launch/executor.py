"""The interface of a place where jobs run, such as processes on this machine. A new place needs one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partrain.launch.end import End
from partrain.training.job import Job


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A device of an executor, as far as a plan needs to know it."""

    kind: str
    """The kind of the device: cpu, or that of an accelerator."""
    processes: int = 1
    """How many processes train on it side by side, where each takes a device's share of the work."""
    computes_bf16: bool = False
    """Whether it computes in bfloat16 in hardware."""


class Handle(Protocol):
    """A job that an executor has accepted."""

    def poll(self) -> End | None:
        """Return the job's end, or None if it has not ended. By then its files are in its folder. This never waits."""
        ...

    def stop(self) -> None:
        """Ask the job to write a checkpoint and end. This never waits."""
        ...

    def kill(self) -> None:
        """End the job at once. `poll` returns its end some time later."""
        ...

    def send(self, files: Sequence[Path]) -> None:
        """Let the job see the present contents of these files of the run, each in one piece.

        There is nothing to do where the job shares the run's folder.
        """
        ...


class Executor(Protocol):
    """A place where jobs run: it places them on devices, shares its cores among them, and may queue them."""

    def capacity(self) -> Sequence[Slot]:
        """Return the devices, for planning alone. Their number may grow later."""
        ...

    def start(self, job: Job) -> Handle | None:
        """Start the job that is written in its folder, or return None if there is no room for it now.

        Whether jobs of a gang have room is decided for the first of them.
        """
        ...

    def share_cores(self, running: Sequence[Handle]) -> None:
        """Divide the cores among the running jobs."""
        ...
