"""Processes that depend on one another: started together, and all ended once one of them is lost."""

import time
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

from partrain.console import console
from partrain.launch.display import Display
from partrain.launch.local import Job, LaunchSettings, SegmentFailed, interruptible
from partrain.launch.placement import divide, num_cores
from partrain.worker import DONE

_POLL = 0.1  # seconds
_GRACE = 2.0  # in which the cause of a failure may still come to light
_HOST = "127.0.0.1"


def launch_group(jobs: Sequence[Job], settings: LaunchSettings, port: int, show: bool = True) -> None:
    """Run `jobs` as the ranks of one group until all are done.

    They meet at `port`, or at another where that is in use. On a CPU every process has at least one thread. `show`: how
    far they are.

    Raises:
        SegmentFailed: one of them failed or was killed; the others were stopped.
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
            raise
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


def _cause(jobs: Sequence[Job]) -> SegmentFailed:
    """Why the group failed: one that was killed or failed by itself, rather than those that lost it."""
    end = time.monotonic() + _GRACE
    while True:
        failed = [(job, job.process.poll()) for job in jobs if job.process and job.process.poll() not in (None, DONE)]
        own = [(job, code) for job, code in failed if (job.report() or {}).get("type") != "PeerLost"]
        if own or time.monotonic() > end:
            job, code = (own or failed)[0]
            assert code is not None
            failure = job.failure(code)
            return SegmentFailed(f"{failure}; the other processes of its group were stopped", failure.clear)
        time.sleep(_POLL)
