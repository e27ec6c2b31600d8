"""The surroundings of a training: its device, requests to stop and to use so many cores, and where it reports."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch

from partrain.storage import checkpoint
from partrain.storage.run_folder import PROGRESS


class TrainingContext(Protocol):
    """The surroundings of a training, or of several in one job."""

    device: torch.device
    """The device to train on."""
    devices: Sequence[str]
    """The names of all devices of the job. Trainings are on the first one, but for those in shards."""
    stop_seconds: float | None
    """Seconds that a training which is to stop has for its checkpoint; None for as long as it takes."""

    def should_stop(self) -> bool:
        """Return whether the training is to write a checkpoint and end. It is cheap enough to ask at every step."""
        ...

    def poll(self) -> None:
        """Obey the requests that have come since the last call, such as to use another number of threads."""
        ...

    def report(self, folder: Path, progress: Mapping[str, object]) -> None:
        """Report how far the training in `folder` is. A report that cannot be delivered does no harm."""
        ...

    def print(self, line: str) -> None:
        """Show a line to whoever watches the job."""
        ...


class LocalContext:
    """The context of a training in the process that asks for it. Nothing requests anything but the process itself.

    Args:
        device: The device to train on.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.devices: Sequence[str] = [str(device)]
        self.stop_seconds: float | None = None
        self._should_stop = False

    def request_stop(self, *_: object) -> None:
        """Ask the training to write a checkpoint and end after the present step. It can serve as a signal handler."""
        self._should_stop = True

    def should_stop(self) -> bool:
        """Return whether a stop was requested."""
        return self._should_stop

    def poll(self) -> None:
        """Do nothing, as there is no launcher."""

    def report(self, folder: Path, progress: Mapping[str, object]) -> None:
        """Write progress.json in the training's folder. Losing it in a crash of the machine does no harm."""
        with suppress(OSError):
            checkpoint.write_json(folder / PROGRESS, progress, sync=False)

    def print(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let `handler` handle Ctrl-C and SIGTERM. In any thread but the main one nothing changes, as Python demands."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def stop_on_signals(context: LocalContext) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM request a stop of the training, and a second one raise `KeyboardInterrupt` at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if context.should_stop():
            raise KeyboardInterrupt
        context.request_stop()

    with handle_signals(stop):
        yield


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt`, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handle_signals(interrupt):
        yield
