"""One process per segment on this machine, supervised: started, watched, restarted when killed, stopped cleanly.

The launcher and its processes share files only. A process that is killed is started again and resumes from its
checkpoint; one that fails with an error of its own is not, and the others finish.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from partrain.device import num_cores
from partrain.errors import JobFailed
from partrain.launch.display import Display
from partrain.launch.job import Job, raise_all
from partrain.launch.placement import divide
from partrain.launch.settings import LaunchSettings
from partrain.launch.worker import DONE, STOPPED

_POLL = 0.1  # seconds


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM is what Ctrl-C is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Supervisor:
    """Starts `jobs` as settings and cores allow, watches them, and restarts those that are killed."""

    def __init__(self, jobs: Sequence[Job], settings: LaunchSettings, display: Display) -> None:
        self.settings, self.display = settings, display
        self.waiting = sorted(jobs, key=lambda job: -job.cost)
        self.running: list[Job] = []
        self.failures: list[JobFailed] = []

    def run(self) -> None:
        try:
            while self.waiting or self.running:
                self.start_some()
                time.sleep(_POLL)
                self.look()
        finally:
            self._stop_all()

    def start_some(self) -> None:
        """On a CPU, start as many as keep every core busy and none fought over; on GPUs, all."""
        cores, fixed = num_cores(), self.settings.threads
        at_once = max(1, cores // fixed) if isinstance(fixed, int) else cores
        started = False
        while self.waiting and (self.waiting[0].device != "cpu" or len(self.running) < at_once):
            job = self.waiting.pop(0)
            self.running.append(job)
            started = True
            self.divide_threads()
            job.start()
        if started:
            self.divide_threads()

    def divide_threads(self) -> None:
        fixed = self.settings.threads
        if isinstance(fixed, int):
            shares = [fixed] * len(self.running)
        else:
            shares = divide(num_cores(), [job.cost for job in self.running])
        for job, threads in zip(self.running, shares, strict=True):
            job.give_threads(threads)

    def look(self) -> None:
        for job in list(self.running):
            assert job.process is not None
            for folder in job.trainings():
                self.display.update(folder)
            code = job.process.poll()
            if code is None:
                continue
            self.running.remove(job)
            if code == DONE:
                for folder in job.trainings():
                    self.display.done(folder)
                dropped = job.dropped()
                self.failures += dropped
                for failure in dropped if self.display.show else ():
                    self.display.print(f"{failure}; the others went on")
            elif code < 0 and job.restarts < self.settings.max_restarts:
                job.restarts += 1
                self.display.print(
                    f"{job.name}: killed by {signal.Signals(-code).name}; restarting from its checkpoint"
                )
                self.waiting.insert(0, job)
            elif code != STOPPED:
                self.failures.append(job.failure(code))
                self.display.print(f"{job.name}: failed; the others go on")
            self.divide_threads()

    def _stop_all(self) -> None:
        """Ask what still runs to write its checkpoint and end; insist after a while."""
        for job in self.running:
            job.stop()
        for job in self.running:
            job.wait()


def launch(jobs: Sequence[Job], settings: LaunchSettings, show: bool = True) -> None:
    """Train the segments of `jobs`, each in a process of its own, until all are done. `show`: how far they are.

    Raises:
        JobFailed: a segment failed for good; raised when the others have finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM; every process has written its checkpoint.
    """
    watched = [training for job in jobs for training in job.trainings().items()]
    with Display(watched, show) as display, interruptible():
        supervisor = Supervisor(jobs, settings, display)
        supervisor.run()
    raise_all(supervisor.failures)
