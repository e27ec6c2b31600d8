"""The supervisor of jobs: it starts them in their order, shows how far they are, restarts those that are lost.

It knows nothing of where jobs run, which the executor does, nor of what they train, which the engines do. Both sides meet
in folders of files alone. A job that is lost is started again and resumes from its checkpoint. A job that fails with an
error of its own is not started again, and the others finish.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from partrain.errors import JobFailed
from partrain.launch.display import Display
from partrain.launch.end import Done, End, Lost, training_end
from partrain.launch.error_report import capitalised, raise_failures, with_sentence
from partrain.launch.executor import Executor
from partrain.launch.inline import InlineExecutor
from partrain.launch.launch import Launch
from partrain.training.context import interrupt_on_signals
from partrain.training.job import Job

_POLL_SECONDS = 0.1
_SHORTEST_POLL_SECONDS = 0.01
_STOP_SECONDS = 30.0
"""Seconds that jobs have to write their checkpoints and end, before they are killed."""


def supervise(jobs: Sequence[Job], executor: Executor, *, max_restarts: int = 3, show_progress: bool = True) -> None:
    """Run every job until all are done.

    Args:
        jobs: The jobs. Those of a gang start and end together.
        executor: The place where they run.
        max_restarts: How many times a job that is lost is started again.
        show_progress: Whether to show how far their trainings are.

    Raises:
        JobFailed: If a training failed for good. It is raised once the others have finished.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. A job that does not end within 30 s is killed, and has its last
            checkpoint. So has a job of a gang.
    """
    trainings = [(member.folder, member.name) for job in jobs for member in job.members]
    with Display(trainings, show_progress=show_progress) as display, interrupt_on_signals():
        if isinstance(executor, InlineExecutor):  # It returns to the supervisor only when a job has ended.
            executor.on_report = display.update
        supervisor = Supervisor(jobs, executor, display, max_restarts=max_restarts)
        supervisor.run()
    raise_failures(supervisor.failures)


class Supervisor:
    """A supervisor that runs `jobs` to their end.

    Args:
        jobs: The jobs, which are started in the order of falling cost.
        executor: The place where they run.
        display: The display of their progress.
        max_restarts: How many times a job that is lost is started again.
        poll_seconds: Seconds between looks at the jobs, once they have run for a while.

    Attributes:
        failures: The errors of the trainings that failed for good, so far.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        executor: Executor,
        display: Display,
        *,
        max_restarts: int = 3,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self.executor, self.display = executor, display
        self.max_restarts, self.poll_seconds = max_restarts, poll_seconds
        self.waiting = [Launch(together) for together in _start_order(jobs)]
        self.running: list[Launch] = []
        self.failures: list[JobFailed] = []
        self._changed_at = time.monotonic()
        """When a job started or ended last."""

    # ---- The story of a supervision.

    def run(self) -> None:
        """Run all jobs to their end. Those that still run when an exception interrupts this are stopped."""
        try:
            while self.waiting or self.running:
                self.start_waiting()
                self.pause()
                self.poll()
        finally:
            self.stop_all()

    def start_waiting(self) -> None:
        """Start what waits, in its order, until the executor has no room for the next one."""
        while self.waiting:
            launch = self.waiting[0]
            self.running.append(launch)  # Before its start, so that an exception within that stops what has started.
            if not launch.start(self.executor):
                self.running.remove(launch)
                return
            self.waiting.pop(0)
            self.share_cores()

    def pause(self) -> None:
        """Pause for a tenth of the time since a job started or ended: short jobs wait little, long ones cost little."""
        seconds = (time.monotonic() - self._changed_at) / 10
        time.sleep(min(self.poll_seconds, max(_SHORTEST_POLL_SECONDS, seconds)))

    def poll(self) -> None:
        """Show the progress of what runs, send files that have appeared, and handle what has ended."""
        for launch in list(self.running):
            end = launch.poll()
            for member in launch.follow_files():  # After the end, which may come just before a training joins.
                self.display.add(member.folder, member.name)
            self.show_progress(launch)
            if end is not None:
                self.running.remove(launch)
                self.handle_end(launch, end)
                self.share_cores()

    def share_cores(self) -> None:
        """Let the executor divide the cores among what runs, after a job has started or ended."""
        self._changed_at = time.monotonic()
        self.executor.share_cores([handle for launch in self.running for handle in launch.handles])

    def show_progress(self, launch: Launch) -> None:
        """Show how far the trainings of a launch are, and what its jobs have said."""
        for member in launch.members:
            self.display.update(member.folder)
        for job in launch.jobs:
            self.display.print_messages(job.folder)

    # ---- The ends of jobs.

    def handle_end(self, launch: Launch, end: End) -> None:
        """Start a launch that was lost again, as often as it may be, and record every other end."""
        leaves_work = launch.leaves_work(end)
        if isinstance(end, Done) and launch.has_joined and leaves_work:
            end = Lost("ended before it saw a training that joined", counts=False)
        elif isinstance(end, Lost) and not leaves_work:  # As a training that pauses, or is killed when it has finished.
            end = Done()
        if isinstance(end, Lost) and (not end.counts or launch.restarts < self.max_restarts):
            self.display.print(f"{capitalised(launch.name)} {end.why}; it restarts from its checkpoint.")
            launch.prepare_restart(counts=end.counts)
            self.waiting.insert(0, launch)
            return
        self.record_end(launch, end)

    def record_end(self, launch: Launch, end: End) -> None:
        """Record which trainings of a launch failed, and show the others as finished."""
        failures = launch.failures(end)
        self.failures += failures
        for member in launch.members:
            if isinstance(training_end(member), Done):
                self.display.finish(member.folder)
        if isinstance(end, Done) and self.display.show_progress:
            for failure in failures:
                self.display.print(with_sentence(str(failure), "The others continued."))
        elif failures and (self.running or self.waiting):
            self.display.print(f"{capitalised(launch.name)} failed; the others continue.")

    def stop_all(self) -> None:
        """Ask what still runs to write its checkpoints and end, and kill it if it does not in time.

        A second Ctrl-C kills it at once.
        """
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for launch in self.running:
                launch.stop()
            while any(launch.is_running() for launch in self.running):
                for launch in self.running:
                    launch.kill_abandoned()
                if time.monotonic() > deadline:
                    self.kill_all()
                time.sleep(min(self.poll_seconds, 0.02))
        except BaseException:
            self.kill_all()
            raise

    def kill_all(self) -> None:
        """End at once what still runs."""
        for launch in self.running:
            launch.kill()


def _start_order(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs that start together, a gang or a single one, in the order of falling cost."""
    gangs: dict[str | Path, list[Job]] = defaultdict(list)
    for job in jobs:
        gangs[job.gang or job.folder].append(job)
    return sorted(gangs.values(), key=lambda together: -sum(job.cost for job in together))
