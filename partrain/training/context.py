"""What a segment's training obeys while it runs: requests to stop, and its share of the cores."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from partrain.storage.run_folder import THREADS_FILE


class Control:
    """Reads the wishes of whoever launched the training in `folder`; alone, it just runs."""

    def __init__(self, folder: Path, launcher: int | None = None) -> None:
        self._threads_file = folder / THREADS_FILE
        self._threads_read = 0
        self._launcher = launcher
        self._stop = False

    def ask_to_stop(self, *_: object) -> None:
        """A signal handler: training writes a checkpoint at its next look and ends."""
        self._stop = True

    def stop_asked(self) -> bool:
        return self._stop

    def look(self) -> None:
        """Take on the number of threads that the folder's `threads` file says; stop if the launcher is gone."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self._stop = True
        try:
            changed = self._threads_file.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed != self._threads_read:
            self._threads_read = changed
            torch.set_num_threads(int(self._threads_file.read_text()))


@contextmanager
def stopping(control: Control) -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM ask to stop; a second one stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if control.stop_asked():
            raise KeyboardInterrupt
        control.ask_to_stop()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
