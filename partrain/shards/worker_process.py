"""A worker process as the scheduler's process sees it: started, sent messages, watched and stopped."""

import os
import socket
import subprocess
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from partrain.launch.allocator import MANY_TRAININGS
from partrain.launch.call import Call
from partrain.launch.child_process import ChildProcess, start_process
from partrain.shards.messages import Answer, Message, ProfileProgress, ProfileRequest, UnitRequest, WorkerSettings
from partrain.shards.scheduler import Unit

_MODULE = _PRELOAD = "partrain.shards.device_worker"
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
        processes: Whether it is forked or started anew, the setting `launch.processes`.

    Attributes:
        last_prefetched: The last unit whose shard the worker was asked to prefetch.
    """

    def __init__(self, number: int, settings: WorkerSettings, log: Path, processes: str = "auto") -> None:
        self.number = number
        self.log = log
        self.process, self.connection = _start(log, processes)
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


def _start(log: Path, processes: str) -> tuple[ChildProcess, "Connection[Message | WorkerSettings, Answer]"]:
    """Start a worker process, and return it with the connection to it, which is its standard input."""
    log.parent.mkdir(parents=True, exist_ok=True)
    own_end, worker_end = socket.socketpair()
    with own_end, worker_end:
        call = Call(module=_MODULE, arguments=[], preload=_PRELOAD, allocator=MANY_TRAININGS)
        process = start_process(call, worker_end.fileno(), log, processes)
        # `Connection` closes its descriptor, and so does the socket: each needs its own.
        return process, Connection(os.dup(own_end.fileno()))
