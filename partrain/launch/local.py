"""One process per segment on this machine, supervised: started, watched, restarted when killed, stopped cleanly.

The launcher and its processes share files only. A process that is killed is started again and resumes from its
checkpoint; one that fails with an error of its own is not, and the others finish.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from partrain import checks
from partrain.launch.display import Display
from partrain.launch.job import Job, SegmentFailed, raise_all
from partrain.launch.placement import divide, num_cores
from partrain.multi.shards.settings import ShardSettings
from partrain.worker import DONE, STOPPED

_POLL = 0.1  # seconds


@dataclass(kw_only=True)
class LaunchSettings:
    """`name`: local, a process for every segment, or shards, a worker for every device (`shards`: see `ShardSettings`).

    `device`: auto, cpu, cuda or cuda:<n>. `threads`: per process, or auto.

    With a number, results are the same bits on every run; auto hands the cores of segments that have ended to those
    that still train, which is faster, and the number of threads changes the order in which floating-point sums are made.
    `pack`: whether tasks of one shape train in one process as stacks (`partrain.multi`): never, always, or auto, where a
    trial of a few steps shows that it pays. `pack_memory_gib`: what packs may take of a device; None: what is free.
    """

    name: str = "local"
    device: str = "auto"
    threads: str | int = "auto"
    max_restarts: int = 3
    pack: str = "never"
    pack_memory_gib: float | None = None
    shards: ShardSettings = field(default_factory=ShardSettings)

    @property
    def subfolder(self) -> str:
        """The name of the folder for what processes of several trainings leave."""
        return "shards" if self.name == "shards" else "packs"

    def __post_init__(self) -> None:
        checks.one_of("launch", self.name, ("local", "shards"))
        if self.name != "shards" and self.shards != ShardSettings():
            raise ValueError(f"launch.shards: launch={self.name} has none; add launch=shards, or leave it out")
        if self.name == "shards" and self.pack == "always":
            raise ValueError("launch.pack=always is not for launch=shards, which packs nothing; leave it out")
        if self.threads != "auto":
            if not str(self.threads).isdigit():
                raise ValueError(f"launch.threads must be a number or auto, got {self.threads}")
            self.threads = int(self.threads)
            checks.at_least("launch.threads", self.threads, 1)
        checks.at_least("launch.max_restarts", self.max_restarts, 0)
        checks.one_of("launch.pack", self.pack, ("never", "auto", "always"))
        if self.pack_memory_gib is not None:
            checks.above("launch.pack_memory_gib", self.pack_memory_gib, 0)


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


class _Supervisor:
    def __init__(self, jobs: Sequence[Job], settings: LaunchSettings, display: Display) -> None:
        self.settings, self.display = settings, display
        self.waiting = sorted(jobs, key=lambda job: -job.cost)
        self.running: list[Job] = []
        self.failures: list[SegmentFailed] = []

    def run(self) -> None:
        try:
            while self.waiting or self.running:
                self._start_some()
                time.sleep(_POLL)
                self._look()
        finally:
            self._stop_all()

    def _start_some(self) -> None:
        """On a CPU, start as many as keep every core busy and none fought over; on GPUs, all."""
        cores, fixed = num_cores(), self.settings.threads
        at_once = max(1, cores // fixed) if isinstance(fixed, int) else cores
        started = False
        while self.waiting and (self.waiting[0].device != "cpu" or len(self.running) < at_once):
            job = self.waiting.pop(0)
            self.running.append(job)
            started = True
            self._divide_threads()
            job.start()
        if started:
            self._divide_threads()

    def _divide_threads(self) -> None:
        fixed = self.settings.threads
        if isinstance(fixed, int):
            shares = [fixed] * len(self.running)
        else:
            shares = divide(num_cores(), [job.cost for job in self.running])
        for job, threads in zip(self.running, shares, strict=True):
            job.give_threads(threads)

    def _look(self) -> None:
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
                    self.display.say(f"{failure}; the others went on")
            elif code < 0 and job.restarts < self.settings.max_restarts:
                job.restarts += 1
                self.display.say(f"{job.name}: killed by {signal.Signals(-code).name}; restarting from its checkpoint")
                self.waiting.insert(0, job)
            elif code != STOPPED:
                self.failures.append(job.failure(code))
                self.display.say(f"{job.name}: failed; the others go on")
            self._divide_threads()

    def _stop_all(self) -> None:
        """Ask what still runs to write its checkpoint and end; insist after a while."""
        for job in self.running:
            job.stop()
        for job in self.running:
            job.wait()


def launch(jobs: Sequence[Job], settings: LaunchSettings, show: bool = True) -> None:
    """Train the segments of `jobs`, each in a process of its own, until all are done. `show`: how far they are.

    Raises:
        SegmentFailed: a segment failed for good; raised when the others have finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM; every process has written its checkpoint.
    """
    watched = [training for job in jobs for training in job.trainings().items()]
    with Display(watched, show) as display, interruptible():
        supervisor = _Supervisor(jobs, settings, display)
        supervisor.run()
    raise_all(supervisor.failures)
