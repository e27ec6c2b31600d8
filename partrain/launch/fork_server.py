"""The process of the zygote: `python -m partrain.launch partrain.launch.fork_server <descriptor of its connection>`.

It imports torch and does once what every training would do at its start, then forks a process for each request. It
runs one thread and uses no accelerator, since a forked process would have neither; where that cannot be so, it refuses.

Each forked process gets a connection of its own, over which it may have further ones forked.
"""

import atexit
import gc
import importlib
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NoReturn

import torch
from setproctitle import getproctitle, setproctitle

from partrain.device import accelerator_in_use
from partrain.launch.engines import WARM_UP
from partrain.launch.zygote import ForkRequest, Zygote, share_zygote


def main(arguments: Sequence[str]) -> int:
    """Serve requests until the launcher closes its connection. In a forked process, do what was requested."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # A launcher that ignores it would leave no exit codes.
    getproctitle()  # It finds out where the title is, which it cannot any more once the environment has changed.
    gc.disable()
    importlib.import_module(WARM_UP).warm_up()
    gc.freeze()  # The collector of a forked process would copy the pages of all that it visits.
    forked = ForkServer(Connection(int(arguments[0]))).serve()
    return 0 if forked is None else _leave(forked.run)


@dataclass
class ForkedMain:
    """A forked process as it begins: the request, its descriptors, and a connection to the zygote."""

    request: ForkRequest
    stdin: int
    log: int
    zygote: "Connection[Any, Any]"

    def run(self) -> int:
        """Become like a fresh process, and return the exit code of what was requested."""
        self.use_descriptors()
        request, call = self.request, self.request.call
        gc.enable()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(request.environment)
        os.chdir(request.folder)
        os.sched_setaffinity(0, request.cores)
        sys.path[:] = request.path
        sys.argv[:] = [call.module, *call.arguments]
        setproctitle(shlex.join([sys.executable, "-m", "partrain.launch", *sys.argv]))
        importlib.invalidate_caches()
        call.allocator.apply()
        _seed_like_fresh()
        share_zygote(Zygote(self.zygote))
        return int(importlib.import_module(call.module).main(call.arguments))

    def use_descriptors(self) -> None:
        """Use the descriptors of the request as standard input, output and errors, in a session of its own."""
        os.setsid()
        os.dup2(self.stdin, 0)
        os.dup2(self.log, 1)
        os.dup2(self.log, 2)
        os.close(self.stdin)
        os.close(self.log)


class ForkServer:
    """A server that forks this process for its clients: the launcher, and the processes that it has forked.

    Args:
        launcher: The connection to the launcher.
    """

    def __init__(self, launcher: "Connection[Any, Any]") -> None:
        self._launcher = launcher
        self._clients = [launcher]

    def serve(self) -> ForkedMain | None:
        """Answer requests until the launcher is gone, and return None; in a forked process, return what it has to do."""
        while True:
            for client in wait(self._clients):
                assert isinstance(client, Connection)
                try:
                    forked = self.answer(client)
                except (EOFError, OSError):
                    if client is self._launcher:
                        return None
                    self._clients.remove(client)
                    client.close()
                    continue
                if forked is not None:
                    return forked

    def answer(self, client: "Connection[Any, Any]") -> ForkedMain | None:
        """Answer a request: for the exit code of a process, or for a new one. In that, return what it has to do."""
        request = client.recv()
        if isinstance(request, int):
            client.send(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]))
            return None
        descriptors = recv_handle(client), recv_handle(client)
        with suppress(Exception):  # The forked process will meet the same error, and report it.
            importlib.import_module(request.call.preload)
        forked = self.fork(client, request, *descriptors)
        if forked is None:
            for descriptor in descriptors:
                os.close(descriptor)
        return forked

    def fork(self, client: "Connection[Any, Any]", request: ForkRequest, stdin: int, log: int) -> ForkedMain | None:
        """Fork this process, and send the client the number and the descriptor of the new one, or why there is none."""
        if reason := why_not_now():
            client.send(reason)
            return None
        own_end, its_end = Pipe()
        try:
            pid = os.fork()
        except OSError as error:  # As there are as many processes as the system allows.
            own_end.close()
            its_end.close()
            client.send(f"the system refused to fork a process ({error.strerror})")
            return None
        if pid == 0:
            for connection in (own_end, *self._clients):
                connection.close()
            return ForkedMain(request, stdin, log, its_end)
        its_end.close()
        self._clients.append(own_end)
        pidfd = os.pidfd_open(pid)
        client.send(pid)
        send_handle(client, pidfd, None)
        os.close(pidfd)
        return None


def _leave(run: Callable[[], int]) -> NoReturn:
    """Call `run`, and end this forked process with the exit code that it returns.

    Python's own end would visit all objects and so copy the memory that is shared with the zygote, which takes longer
    than a small training. As in a child of multiprocessing, threads are waited for, and here handlers of the end called.
    """
    try:
        exit_code = run()
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        exit_code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(exit_code)


def why_not_now() -> str | None:
    """Return why this process cannot be forked now, as the end of a sentence, or None if it can."""
    if (num_threads := _num_threads()) > 1:
        return f"the process that forks runs {num_threads} threads, which a forked one would lack"
    if kind := accelerator_in_use():
        return f"the process that forks has initialised {kind}, which a forked one could not use"
    return None


def _num_threads() -> int:
    """Return how many threads this process has, also those that Python knows nothing of."""
    return len(os.listdir("/proc/self/task"))


def _seed_like_fresh() -> None:
    """Seed the global generators from the system, as they are in a fresh process. Python seeds its own after a fork."""
    torch.default_generator.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
