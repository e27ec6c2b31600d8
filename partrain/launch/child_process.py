"""A process that calls a function of this package: forked where that is possible, otherwise started anew."""

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, Protocol

from partrain.errors import UserError
from partrain.launch.call import Call
from partrain.launch.environment import import_path
from partrain.launch.zygote import ForkedProcess, ForkRefused, ForkRequest, shared_zygote


class ChildProcess(Protocol):
    """A process that was started here, with methods of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, minus the number of the signal that has killed it, or None if the process runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended, or raise `subprocess.TimeoutExpired`."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        ...

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        ...


def start_process(call: Call, stdin: int, log: Path, processes: str) -> ChildProcess:
    """Start a process that does `call`.

    Args:
        call: What the process does.
        stdin: The descriptor of its standard input.
        log: The file that its standard output and errors are appended to.
        processes: Whether it is forked or started anew, the setting `launch.processes`.

    Raises:
        UserError: If the setting is "fork", and that is not possible.
    """
    with log.open("ab") as log_file:
        if processes == "fresh":
            return _start_fresh(call, stdin, log_file)
        try:
            return _fork(call, stdin, log_file)
        except ForkRefused as refusal:
            if processes == "fork":
                raise UserError(f"launch.processes=fork: {refusal}; set launch.processes=auto") from None
            log_file.write(f"This process was started anew, not forked: {refusal}.\n".encode())
            log_file.flush()
            return _start_fresh(call, stdin, log_file)


def _fork(call: Call, stdin: int, log: BinaryIO) -> ForkedProcess:
    """Let the zygote fork a process that does `call`, or raise `ForkRefused`."""
    zygote = shared_zygote()
    request = ForkRequest(
        call=call,
        environment=call.environment(),
        path=[os.getcwd(), *import_path()],
        folder=os.getcwd(),
        cores=os.sched_getaffinity(0),
    )
    return zygote.fork(request, stdin, log.fileno())


def _start_fresh(call: Call, stdin: int, log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start a new Python process that does `call`."""
    return subprocess.Popen(
        [sys.executable, "-m", "partrain.launch", call.module, *call.arguments],
        stdin=stdin,
        stdout=log,
        stderr=log,
        env=call.environment(),
        start_new_session=True,
    )
