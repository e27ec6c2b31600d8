"""The zygote: a process that has imported torch and forks others, which so start at once. This is its launcher's side.

Importing torch takes seconds and hundreds of megabytes, in every process anew. A forked process has both from the
zygote, which is `partrain.launch.fork_server` and imports nothing of the user's.

This module imports the standard library alone, so that a command starts the zygote before its own imports, and both
import side by side.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import IO, Any

from partrain.launch.allocator import ONE_TRAINING
from partrain.launch.call import Call
from partrain.launch.environment import process_environment

LOST_WITH_ZYGOTE = -256
"""The exit code of a process whose zygote has ended, so that nobody knows its own."""

# Libraries read these variables once, when they are loaded. A zygote that was loaded with others is of no use.
_READ_WHEN_LOADED = (
    *("ATEN_", "DNNL_", "GLIBC_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "THP_", "TORCH_"),
)
# Importing numpy starts the threads of its library for linear algebra, which no fork would have.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
# Words on a command line with which nothing is trained in other processes.
_WITHOUT_FORKS = {
    *("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version"),
    *("launch=inline", "launch.processes=fresh", "partition.dry_run=true"),
}


class ForkRefused(Exception):
    """A refusal to fork. Its message is the end of a sentence, the reason."""


@dataclass(frozen=True, kw_only=True)
class ForkRequest:
    """A request for a process that does a call, in the surroundings of the one that asks."""

    call: Call
    environment: dict[str, str]
    """All of the environment variables."""
    path: list[str]
    """The folders that modules are imported from, `sys.path`."""
    folder: str
    """The working directory."""
    cores: set[int]
    """The cores that the process may use."""


class ForkedProcess:
    """A process that a zygote has forked, with the methods of `subprocess.Popen`.

    Args:
        zygote: The zygote.
        pid: The number of the process.
        pidfd: A descriptor of the process, so that a signal never reaches another one that has its number later.

    Attributes:
        returncode: The exit code once the process has ended: minus the signal's number if one has killed it.
    """

    def __init__(self, zygote: "Zygote", pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote, self._pidfd = zygote, pidfd

    def poll(self) -> int | None:
        """Return the exit code, or None if the process runs. Where the zygote has ended, the process is asked to."""
        if self.returncode is None:
            if self._has_ended(seconds=0):
                self.returncode = self._zygote.exit_code(self.pid)
                os.close(self._pidfd)
            elif self._zygote.is_lost():
                self.terminate()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended.

        Raises:
            subprocess.TimeoutExpired: If it has not ended after `timeout` seconds.
        """
        if self.returncode is None and not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        exit_code = self.poll()
        assert exit_code is not None
        return exit_code

    def _has_ended(self, seconds: float | None) -> bool:
        """Return whether the process ends within these seconds; None waits for it."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def terminate(self) -> None:
        """Send SIGTERM, unless the process is known to have ended."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless the process is known to have ended."""
        self._send_signal(signal.SIGKILL)

    def _send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


class Zygote:
    """A zygote, which this process has started or which has forked it.

    It answers one request after another, and threads may share it. It ends with this process, or once nothing refers to
    this object and its processes any more.

    Args:
        connection: The connection to it.
        process: The zygote's process, if this one has started it.
        log: The file with what it has printed.

    Attributes:
        process: The zygote's process, if this one has started it.
        has_forked: Whether it has ever forked a process.
    """

    def __init__(
        self,
        connection: "Connection[Any, Any]",
        process: "subprocess.Popen[bytes] | None" = None,
        log: IO[bytes] | None = None,
    ) -> None:
        self.has_forked = False
        self.process = process
        self._connection, self._log = connection, log
        self._lock = threading.Lock()
        self._environment = _environment_when_loaded()
        weakref.finalize(self, _end_zygote, os.getpid(), connection, process, log)

    def fork(self, request: ForkRequest, stdin: int, log: int) -> ForkedProcess:
        """Return a new process.

        Args:
            request: What the process does.
            stdin: The descriptor of its standard input.
            log: The descriptor of its standard output and errors.

        Raises:
            ForkRefused: If the zygote has ended, or it is not safe to fork it.
        """
        try:
            with self._conversation() as connection:
                connection.send(request)
                for descriptor in (stdin, log):
                    send_handle(connection, descriptor, None)
                answer = connection.recv()
                pidfd = recv_handle(connection) if isinstance(answer, int) else None
        except (EOFError, OSError):
            raise ForkRefused(self.describe_end()) from None
        if pidfd is None:
            raise ForkRefused(answer)
        self.has_forked = True
        return ForkedProcess(self, answer, pidfd)

    def exit_code(self, pid: int) -> int:
        """Return the exit code of a forked process that has ended."""
        try:
            with self._conversation() as connection:
                connection.send(pid)
                return int(connection.recv())
        except (EOFError, OSError):
            return LOST_WITH_ZYGOTE

    @contextmanager
    def _conversation(self) -> Iterator["Connection[Any, Any]"]:
        """Yield the connection to one thread at a time. If Ctrl-C interrupts it, an answer may be due: it is closed."""
        with self._lock:
            try:
                yield self._connection
            except BaseException:
                self._connection.close()
                raise

    def is_lost(self) -> bool:
        """Return whether the zygote has ended."""
        with self._lock:
            try:
                return self._connection.poll()  # No answer is due, so that there is nothing to read but the end.
            except OSError:
                return True

    def has_environment(self) -> bool:
        """Return whether it has loaded libraries with the environment variables of today."""
        return self._environment == _environment_when_loaded()

    def printed(self) -> str:
        """Return what the zygote has printed, if this process has started it."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def describe_end(self) -> str:
        """Return the end of a sentence that says how the zygote has ended."""
        if self.process is None:
            return "the process that forks has ended"
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        lines = self.printed().strip().splitlines()
        last_line = f" ({lines[-1]})" if lines else ""
        return f"the process that forks has ended with exit code {self.process.poll()}{last_line}"


def _end_zygote(
    owner: int,
    connection: "Connection[Any, Any]",
    process: "subprocess.Popen[bytes] | None",
    log: IO[bytes] | None,
) -> None:
    """Close the connection, and end the zygote if this process, `owner`, has started it. Forked processes go on."""
    connection.close()
    if process is not None and os.getpid() == owner:
        process.kill()
        process.wait()
    if log is not None:
        log.close()


def why_not_here() -> str | None:
    """Return why no process is forked on this system, or None if processes can be."""
    if sys.platform != "linux":
        return "forking is safe on Linux alone"
    return None if hasattr(os, "pidfd_open") and _has_pidfd() else "this version of Linux or Python has no pidfd_open"


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def start_zygote() -> Zygote:
    """Return a new zygote, which imports what processes need from now on."""
    own_end, its_end = socket.socketpair()
    with own_end, its_end:
        log = tempfile.TemporaryFile()  # noqa: SIM115
        variables = {**ONE_TRAINING.environment, **process_environment(), **_ONE_THREAD}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "partrain.launch", "partrain.launch.fork_server", str(its_end.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables,
            pass_fds=[its_end.fileno()],
            start_new_session=True,
        )
        # `Connection` closes its descriptor, and so does the socket: each needs its own.
        return Zygote(Connection(os.dup(own_end.fileno())), process, log)


def _environment_when_loaded() -> dict[str, str]:
    """Return the environment variables that libraries read when they are loaded."""
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_WHEN_LOADED)}


# ---- The zygote that all of this process shares.

_shared: Zygote | None = None
_shared_lock = threading.Lock()


def shared_zygote() -> Zygote:
    """Return the zygote of this process, which is started if there is none, or none that is of use.

    Raises:
        ForkRefused: If no process can be forked on this system, or a zygote has ended before it forked any.
    """
    global _shared
    if reason := why_not_here():
        raise ForkRefused(reason)
    with _shared_lock:
        if _shared is not None and _shared.is_lost():
            if not _shared.has_forked:  # The next one would not either.
                raise ForkRefused(_shared.describe_end())
            _shared = None
        if _shared is None or not _shared.has_environment():
            _shared = start_zygote()
        return _shared


def share_zygote(zygote: Zygote | None) -> None:
    """Let this process use `zygote` from now on, or none, so that the next request starts one."""
    global _shared
    _shared = zygote


def start_early(arguments: Sequence[str]) -> None:
    """Start the shared zygote at the beginning of a command, unless its arguments say that it trains nothing."""
    if why_not_here() is None and not _WITHOUT_FORKS & set(arguments):
        shared_zygote()


# A process that a user forks must not answer in the place of this one.
os.register_at_fork(after_in_child=lambda: share_zygote(None))
