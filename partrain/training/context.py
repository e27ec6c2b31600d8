"""The requests that a training obeys while it runs: to stop, and to use so many cores."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from partrain.storage.run_folder import THREADS_FILE


class TrainingContext:
    """The requests to the training in `folder`. A training that nobody launched gets none.

    Args:
        folder: The training's folder, where the launcher writes the number of threads.
        launcher: The process id of the launcher. Training stops once that process is gone.
    """

    def __init__(self, folder: Path, launcher: int | None = None) -> None:
        self._threads_file = folder / THREADS_FILE
        self._threads_file_time = 0
        self._launcher = launcher
        self._should_stop = False

    def request_stop(self, *_: object) -> None:
        """Ask the training to write a checkpoint and end, after its present step. It can serve as a signal handler."""
        self._should_stop = True

    def should_stop(self) -> bool:
        """Return whether the training is to write a checkpoint and end."""
        return self._should_stop

    def poll(self) -> None:
        """Read the launcher's requests: set the number of threads, and stop if the launcher is gone."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self._should_stop = True
        try:
            file_time = self._threads_file.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if file_time != self._threads_file_time:
            self._threads_file_time = file_time
            torch.set_num_threads(int(self._threads_file.read_text()))


@contextmanager
def handle_signals(context: TrainingContext) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM request a stop of the training, and a second one raise `KeyboardInterrupt` at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if context.should_stop():
            raise KeyboardInterrupt
        context.request_stop()

    # Python allows signal handlers in the main thread alone.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
