"""A worker process, as the scheduler's process sees it."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from partrain.launch.job import environment
from partrain.packs.planner import ALLOCATOR
from partrain.shards.messages import (
    AddModel,
    Prefetch,
    RemoveModel,
    UnitFailure,
    UnitRequest,
    UnitResult,
    WorkerSettings,
)
from partrain.shards.scheduler import Unit

_MODULE = "partrain.shards"


class WorkerProcess:
    """Worker `number`; what it says that is not for us goes to `log`. `since`: when it last had something to do."""

    def __init__(self, number: int, settings: WorkerSettings, log: Path) -> None:
        self.number, self.settings, self.log = number, settings, log
        self.restarts = 0
        self.start()

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(ALLOCATOR),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.connection = Connection(os.dup(ours.fileno()))
        ours.close()
        self.under_way = 0
        self.awaited: Unit | None = None  # the last for which a shard was to be fetched
        self.since = time.monotonic()
        self.connection.send(self.settings)

    def send(self, message: AddModel | UnitRequest | Prefetch | RemoveModel) -> None:
        """A worker that is gone is noticed where its answers are waited for."""
        if isinstance(message, UnitRequest):
            if self.under_way == 0:
                self.since = time.monotonic()
            self.under_way += 1
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> UnitResult | UnitFailure | None:
        """What it has to say; None: it is gone."""
        try:
            answer: UnitResult | UnitFailure = self.connection.recv()
        except (EOFError, OSError):
            return None
        self.under_way -= 1
        self.since = time.monotonic()
        return answer

    def is_stalled(self, seconds: float) -> bool:
        return self.under_way > 0 and time.monotonic() - self.since > seconds

    def stop(self) -> None:
        """It ends once nothing more can come; insist after a while."""
        self.connection.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
