"""Processes that depend on one another, as `torch.distributed` needs them: if one is lost, all are stopped."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from partrain.device import num_cores
from partrain.errors import JobFailed
from partrain.launch.display import Display
from partrain.launch.error_report import read_error_report, with_sentence
from partrain.launch.job import Job
from partrain.launch.placement import divide_cores
from partrain.launch.settings import LaunchSettings
from partrain.launch.supervisor import treat_sigterm_as_ctrl_c
from partrain.launch.worker import DONE

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 2.0
"""How long the cause of a failure may take to appear after the failures that it causes."""
_HOST = "127.0.0.1"


def launch_group(jobs: Sequence[Job], settings: LaunchSettings, *, show_progress: bool = True) -> None:
    """Run `jobs` as the ranks of one process group until all are done.

    Args:
        jobs: A job per rank, in the order of the ranks.
        settings: The threads of each process. On a CPU every process has at least one.
        show_progress: Whether to show how far they are.

    Raises:
        JobFailed: If a process failed or was killed. The others have been stopped by then.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. The checkpoints are of the last epoch's end.
    """
    store = open_store()
    shares = divide_cores(num_cores(), [job.cost for job in jobs])
    for job, share in zip(jobs, shares, strict=True):
        job.environment = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(store.port)}
        job.set_threads(share if settings.threads == "auto" else int(settings.threads))

    trainings = [(job.folder, job.name) for job in jobs]
    with Display(trainings, show_progress=show_progress) as display, treat_sigterm_as_ctrl_c():
        try:
            for job in jobs:
                job.start()
            _wait_for_all(jobs, display)
        finally:
            for job in jobs:
                job.stop()
            for job in jobs:
                job.wait(_GRACE_SECONDS)


def open_store() -> TCPStore:
    """Return a store where the processes of a group find one another. It listens at a free port."""
    return TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def _wait_for_all(jobs: Sequence[Job], display: Display) -> None:
    """Show the progress of `jobs` until all are done. Raise the cause if one of them ends in another way."""
    while any(job.exit_code() != DONE for job in jobs):
        time.sleep(_POLL_SECONDS)
        for job in jobs:
            display.update(job.folder)
        if any(job.exit_code() not in (None, DONE) for job in jobs):
            raise _find_cause(jobs)
    for job in jobs:
        display.finish(job.folder)


def _find_cause(jobs: Sequence[Job]) -> JobFailed:
    """Return the error of the process that caused the failure, rather than of one that lost its peer.

    The cause may appear after the failures that it caused. So this waits for it a little, and then returns the error
    that is closest to a cause.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    while True:
        ends = [_End(job, code) for job in jobs if (code := job.exit_code()) not in (None, DONE)]
        closest = min(ends, key=lambda end: end.distance_from_cause())
        if closest.is_cause() or time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)

    failure = closest.job.failure(closest.exit_code)
    message = with_sentence(str(failure), "The other processes of its group were stopped.")
    return JobFailed(message, is_user_error=failure.is_user_error)


@dataclass(frozen=True)
class _End:
    """A process of a group that has failed."""

    job: Job
    exit_code: int

    def is_cause(self) -> bool:
        """Return whether the process failed by itself, not as it lost a peer."""
        return self.distance_from_cause() < 2

    def distance_from_cause(self) -> int:
        """Return 0 if the process reported an error of its own, 1 if it was killed, 2 if it lost a peer."""
        report = read_error_report(self.job.folder)
        if report is not None:
            return 2 if report.type == "PeerLost" else 0
        # NCCL's watchdog aborts a process that waits for a lost peer. On a CPU that process writes a report instead.
        is_aborted_by_nccl = self.exit_code == -signal.SIGABRT and self.job.device != "cpu"
        return 2 if is_aborted_by_nccl else 1
