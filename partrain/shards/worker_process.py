"""A worker process as the scheduler's process sees it: started, sent messages, watched and stopped."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from partrain.launch.engines import MANY_TRAININGS
from partrain.launch.processes import process_environment
from partrain.shards.messages import Answer, Message, ProfileProgress, ProfileRequest, UnitRequest, WorkerSettings
from partrain.shards.scheduler import Unit

_MODULE = "partrain.shards"
_STOP_SECONDS = 10
"""Seconds that a worker has to end once its connection is closed, before it is killed."""
_START_SECONDS = 60.0
"""Seconds that a process may take for its imports and for building its first shard."""


class WorkerProcess:
    """A worker process, which computes units on one device. It starts at once.

    Args:
        number: The number of the worker and its device in the schedule.
        settings: The worker's settings.
        log: The file that the process's standard output and errors are appended to.

    Attributes:
        last_prefetched: The last unit whose shard the worker was asked to prefetch.
    """

    def __init__(self, number: int, settings: WorkerSettings, log: Path) -> None:
        self.number = number
        self.log = log
        self.process, self.connection = _start(log)
        self.last_prefetched: Unit | None = None
        self._num_pending = 0
        """Units and trials that were requested and have not been answered."""
        self._busy_since = time.monotonic()
        self._has_answered = False
        self.connection.send(settings)

    def send(self, message: Message) -> None:
        """Send a message. If the process has died, that shows when `receive` is called next."""
        if isinstance(message, UnitRequest | ProfileRequest):
            if self._num_pending == 0:
                self._busy_since = time.monotonic()
            self._num_pending += 1
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Answer | None:
        """Return the worker's next answer, waiting for it if need be, or None if the process has died."""
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, OSError):
            return None
        if not isinstance(answer, ProfileProgress):
            self._num_pending -= 1
        self._has_answered = True
        self._busy_since = time.monotonic()
        return answer

    def is_stalled(self, seconds: float) -> bool:
        """Return whether the worker has computed one unit for longer than `seconds`.

        Until its first answer it may take as long again as a process takes to start on a busy machine.
        """
        limit = seconds if self._has_answered else seconds + _START_SECONDS
        return self._num_pending > 0 and time.monotonic() - self._busy_since > limit

    def stop(self) -> None:
        """Close the connection, which ends the process, and kill it if it does not end in time."""
        self.connection.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def _start(log: Path) -> tuple["subprocess.Popen[bytes]", "Connection[Message | WorkerSettings, Answer]"]:
    """Start a worker process, and return it with the connection to it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    own_end, worker_end = socket.socketpair()
    with log.open("ab") as log_file, own_end, worker_end:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(worker_end.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            env=process_environment(MANY_TRAININGS),
            pass_fds=[worker_end.fileno()],
            start_new_session=True,
        )
        # `Connection` closes its descriptor, and so does the socket: each needs its own.
        return process, Connection(os.dup(own_end.fileno()))
