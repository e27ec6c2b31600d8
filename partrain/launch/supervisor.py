"""The supervisor of training processes on this machine: it starts, polls, restarts and stops them.

The launcher and its processes share nothing but files. A process that is killed is started again and resumes from its
checkpoint. A process that fails with an error of its own is not restarted, and the others finish.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from partrain.device import num_cores
from partrain.errors import JobFailed
from partrain.launch.display import Display
from partrain.launch.error_report import capitalised, raise_failures, with_sentence
from partrain.launch.job import Job
from partrain.launch.placement import divide_cores
from partrain.launch.settings import LaunchSettings
from partrain.launch.worker import DONE, STOPPED

_POLL_SECONDS = 0.1


def supervise(jobs: Sequence[Job], settings: LaunchSettings, *, show_progress: bool = True) -> None:
    """Run every job in a process of its own until all are done.

    A process begins with `main` in `partrain.launch.worker`, which calls the engine that the job names.

    Raises:
        JobFailed: If a training failed for good. It is raised once the others have finished.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. Every process has written a checkpoint by then, except any that were
            killed because they took more than 30 s.
    """
    trainings: list[tuple[Path, str]] = []
    for job in jobs:
        trainings += job.trainings().items()
    with Display(trainings, show_progress=show_progress) as display, treat_sigterm_as_ctrl_c():
        supervisor = Supervisor(jobs, settings, display)
        supervisor.run()
    raise_failures(supervisor.failures)


@contextmanager
def treat_sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt`, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Supervisor:
    """A supervisor that starts `jobs` as settings and cores allow, and restarts those that are killed.

    Args:
        jobs: The jobs, which are started in the order of falling cost.
        settings: The threads of a process, and how often it may be restarted.
        display: The display of their progress.

    Attributes:
        failures: The errors of the trainings that failed for good, so far.
    """

    def __init__(self, jobs: Sequence[Job], settings: LaunchSettings, display: Display) -> None:
        self.settings, self.display = settings, display
        self.waiting = sorted(jobs, key=lambda job: -job.cost)
        self.running: list[Job] = []
        self.failures: list[JobFailed] = []

    def run(self) -> None:
        """Run all jobs to their end. Processes that still run when an exception interrupts this are stopped."""
        try:
            while self.waiting or self.running:
                self.start_jobs()
                time.sleep(_POLL_SECONDS)
                self.poll()
        finally:
            self._stop_all()

    def start_jobs(self) -> None:
        """Start waiting jobs: on a CPU as many as there are cores for, on GPUs all."""
        has_started = False
        while self.waiting and self._has_room_for(self.waiting[0]):
            job = self.waiting.pop(0)
            self.running.append(job)
            has_started = True
            self.assign_threads()
            job.start()
        if has_started:
            self.assign_threads()

    def _has_room_for(self, job: Job) -> bool:
        """Return whether `job` may start beside those that run."""
        threads = self.settings.threads
        capacity = max(1, num_cores() // threads) if isinstance(threads, int) else num_cores()
        return job.device != "cpu" or len(self.running) < capacity

    def assign_threads(self) -> None:
        """Set the threads of the running processes: a fixed number each, or shares of the cores by their cost."""
        threads = self.settings.threads
        if isinstance(threads, int):
            shares = [threads] * len(self.running)
        else:
            shares = divide_cores(num_cores(), [job.cost for job in self.running])
        for job, share in zip(self.running, shares, strict=True):
            job.set_threads(share)

    def poll(self) -> None:
        """Show the progress of the running jobs, and handle those whose process has ended."""
        for job in list(self.running):
            for folder in job.trainings():
                self.display.update(folder)
            exit_code = job.exit_code()
            if exit_code is not None:
                self.running.remove(job)
                self._handle_end(job, exit_code)
                self.assign_threads()

    def _handle_end(self, job: Job, exit_code: int) -> None:
        """Record that the process of `job` ended with `exit_code`, and queue the job again if it was killed."""
        if exit_code == DONE:
            self._finish(job)
        elif exit_code < 0 and job.restarts < self.settings.max_restarts:
            job.restarts += 1
            killed = f"{capitalised(job.name)} was killed by {signal.Signals(-exit_code).name}"
            self.display.print(f"{killed}; it restarts from its checkpoint.")
            self.waiting.insert(0, job)
        elif exit_code != STOPPED:
            self.failures.append(job.failure(exit_code))
            self.display.print(f"{capitalised(job.name)} failed; the others continue.")

    def _finish(self, job: Job) -> None:
        """Record that `job` is done, and which of its members failed on the way."""
        for folder in job.trainings():
            self.display.finish(folder)
        failures = job.member_failures()
        self.failures += failures
        if self.display.show_progress:
            for failure in failures:
                self.display.print(with_sentence(str(failure), "The others continued."))

    def _stop_all(self) -> None:
        """Ask the processes that still run to write a checkpoint and end, and wait for them."""
        for job in self.running:
            job.stop()
        for job in self.running:
            job.wait()
