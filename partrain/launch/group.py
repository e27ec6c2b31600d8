"""Processes that depend on one another: started together, and all ended once one of them is lost."""

import signal
import time
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

from partrain.console import console
from partrain.device import num_cores
from partrain.errors import JobFailed, UserError
from partrain.launch.display import Display
from partrain.launch.job import Job
from partrain.launch.placement import divide
from partrain.launch.settings import LaunchSettings
from partrain.launch.supervisor import interruptible
from partrain.launch.worker import DONE

_POLL = 0.1  # seconds
_GRACE = 2.0  # in which the cause of a failure may still come to light
_HOST = "127.0.0.1"


def launch_group(jobs: Sequence[Job], settings: LaunchSettings, port: int, show: bool = True) -> None:
    """Run `jobs` as the ranks of one group until all are done.

    They meet at `port`, or at another where that is in use. On a CPU every process has at least one thread. `show`: how
    far they are.

    Raises:
        JobFailed: one of them failed or was killed; the others were stopped.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is kept is up to the last epoch's end.
    """
    store = meeting_place(port)
    shares = divide(num_cores(), [job.cost for job in jobs])
    for job, threads in zip(jobs, shares, strict=True):
        job.environment = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(store.port)}
        job.give_threads(threads if settings.threads == "auto" else int(settings.threads))
    with Display([(job.folder, job.name) for job in jobs], show) as display, interruptible():
        try:
            for job in jobs:
                job.start()
            _watch(jobs, display)
        finally:
            for job in jobs:
                job.stop()
            for job in jobs:
                job.wait(_GRACE)


def meeting_place(port: int) -> TCPStore:
    """Where the group's processes find one another: a store at `port`, or at a free one."""
    try:
        return _store(port)
    except DistNetworkError as error:
        if "in use" not in str(error):
            reason = str(error).splitlines()[0]
            raise UserError(f"strategy.port={port} cannot be taken: {reason}; take another, or 0 for any") from None
    store = _store(0)
    console.print(f"strategy.port={port} is in use; taking {store.port}")
    return store


def _store(port: int) -> TCPStore:
    return TCPStore(_HOST, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def _watch(jobs: Sequence[Job], display: Display) -> None:
    """Wait until all are done; raise for the first that is not."""
    while any(code != DONE for code in _exit_codes(jobs).values()):
        time.sleep(_POLL)
        for job in jobs:
            display.update(job.folder)
        if any(code not in (None, DONE) for code in _exit_codes(jobs).values()):
            raise _cause(jobs)
    for job in jobs:
        display.done(job.folder)


def _exit_codes(jobs: Sequence[Job]) -> dict[str, int | None]:
    return {job.name: job.process.poll() if job.process else None for job in jobs}


def _cause(jobs: Sequence[Job]) -> JobFailed:
    """Why the group failed: by one that said so or was killed, rather than by those that lost it.

    The cause may come to light after what it caused, so that it is waited for a little.
    """
    end = time.monotonic() + _GRACE
    while True:
        failed = [(job, code) for job in jobs if job.process and (code := job.process.poll()) not in (None, DONE)]
        job, code = min(failed, key=lambda each: _remoteness(*each))
        if _remoteness(job, code) < _LOST_IT or time.monotonic() > end:
            failure = job.failure(code)
            return JobFailed(
                f"{failure}; the other processes of its group were stopped", is_user_error=failure.is_user_error
            )
        time.sleep(_POLL)


_LOST_IT = 2


def _remoteness(job: Job, code: int) -> int:
    """How far a process that ended with `code` is from the cause: 0 told of an error of its own, 1 was killed.

    NCCL's watchdog aborts a process that waits for a lost one; on a CPU that process says itself whom it has lost.
    """
    report = job.report()
    if report is not None:
        return _LOST_IT if report["type"] == "PeerLost" else 0
    return _LOST_IT if code == -signal.SIGABRT and job.device != "cpu" else 1
