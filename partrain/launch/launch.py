"""A launch: the jobs that start and end together, a gang or a single job, from their start to their common end."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from partrain.errors import JobFailed
from partrain.launch.end import Done, End, Failed, Lost, Stopped, training_end
from partrain.launch.error_report import capitalised, with_sentence
from partrain.launch.executor import Executor, Handle
from partrain.launch.rendezvous import forget_rendezvous
from partrain.storage.checkpoint import file_version, remove_partial_files
from partrain.storage.run_folder import ERROR_FILE, JOB_FILE, LOG
from partrain.training.job import Job, JobFile, Member

PEER_LOST = "PeerLost"
"""The type of the error that a process of a gang reports when another one has ended or does not answer."""
_GRACE_SECONDS = 2.0
"""How long the cause of a failure may take to appear after the failures that it causes."""


class Launch:
    """The jobs of a launch, which it writes to their folders.

    Args:
        jobs: The jobs: one, or those of a gang.

    Attributes:
        restarts: How many of the restarts that are allowed were used.
        handles: The handle of each job, once they are started.
        cause: The job whose end stands for those of all, once all have ended.
        has_joined: Whether trainings have joined since the start, so that the jobs may have ended before they saw them.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.restarts = 0
        self.has_joined = False
        self.handles: list[Handle] = []
        self.cause = self.jobs[0]
        self._first_bad_end: float | None = None
        """When a job of the gang ended otherwise than done, by `time.monotonic`."""
        self._killed: set[int] = set()
        """The positions of jobs that were killed here, so that their ends are no cause."""
        self._job_files: list[JobFile] = []
        self._file_versions: dict[Path, tuple[int, ...]] = {}
        """The version of each file that jobs wait for."""
        self._has_begun = False

    @property
    def name(self) -> str:
        """Return the name in messages, which is that of the job that is the cause of the end."""
        return self.cause.name

    @property
    def members(self) -> list[Member]:
        """Return the trainings of all jobs."""
        return [member for job in self.jobs for member in job.members]

    @property
    def is_gang(self) -> bool:
        """Return whether there are several jobs."""
        return len(self.jobs) > 1

    # ---- The start.

    def start(self, executor: Executor) -> bool:
        """Start all jobs, and return whether there was room for them."""
        if not self._has_begun:
            self.begin()
            self._has_begun = True
        self.handles = []
        for job in self.jobs:
            handle = executor.start(job)
            if handle is None:
                self.kill()
                return False
            self.handles.append(handle)
        return True

    def begin(self) -> None:
        """Write the jobs to their folders, from which the reports of earlier errors are removed."""
        for job in self.jobs:
            job.write()
            for folder in {job.folder, *(member.folder for member in job.members)}:
                (folder / ERROR_FILE).unlink(missing_ok=True)
            forget_rendezvous(job.folder)
        self._job_files = [JobFile(job) for job in self.jobs]

    def prepare_restart(self, *, counts: bool) -> None:
        """Remove what an attempt that was lost left half done. Trainings that have failed in it keep their reports.

        Args:
            counts: Whether the restart is one of those that are limited.
        """
        self.restarts += counts
        for job in self.jobs:
            for folder in {job.folder, *(member.folder for member in job.members)}:
                remove_partial_files(folder)
            has_report_of_its_own = all(member.folder != job.folder for member in job.members)
            if has_report_of_its_own or self.is_gang:
                (job.folder / ERROR_FILE).unlink(missing_ok=True)
            forget_rendezvous(job.folder)
        self.handles, self.cause = [], self.jobs[0]
        self.has_joined = False
        self._file_versions.clear()
        self._first_bad_end = None
        self._killed.clear()

    def follow_files(self) -> list[Member]:
        """Send each job the files that it waits for when they appear, and its job.json when its owner has rewritten it.

        Returns:
            The trainings that have joined since the last call.
        """
        joined: list[Member] = []
        for number, (job_file, handle) in enumerate(zip(self._job_files, self.handles, strict=True)):
            appeared = [path for path in self.jobs[number].waits_for if self._has_changed(path)]
            job = job_file.read_if_changed()
            if job is not None:
                known = {member.folder for member in self.jobs[number].members}
                joined += [member for member in job.members if member.folder not in known]
                self.jobs[number] = job
                appeared.append(job.folder / JOB_FILE)
            if appeared:
                handle.send(appeared)
        self.has_joined |= bool(joined)
        return joined

    def _has_changed(self, path: Path) -> bool:
        """Return whether a file was written since the last call."""
        version = file_version(path)
        known = self._file_versions.get(path, ())
        self._file_versions[path] = version
        return known != version

    # ---- The end.

    def poll(self) -> End | None:
        """Return the common end of the jobs, or None before the last of them has ended."""
        self.kill_abandoned()
        ends = [handle.poll() for handle in self.handles]
        if None in ends:
            return None
        self.cause, end = self.find_cause([end for end in ends if end is not None])
        return end

    def kill_abandoned(self) -> None:
        """Kill the others of a gang a little after one of it has ended otherwise than done: they would wait for it.

        Until then they may report what the cause was.
        """
        if not self.is_gang:
            return
        ends = [handle.poll() for handle in self.handles]
        if all(end is None or isinstance(end, Done) for end in ends):
            return
        now = time.monotonic()
        if self._first_bad_end is None:
            self._first_bad_end = now
        elif now - self._first_bad_end > _GRACE_SECONDS and not self._killed:
            self._killed = {number for number, end in enumerate(ends) if end is None}
            self.kill()

    def find_cause(self, ends: Sequence[End]) -> tuple[Job, End]:
        """Return the job and its end that stand for all: the cause, where some ends are the consequence of others.

        A job that says that it lost a peer is never the cause. Nothing here has asked a job to stop by itself.
        """
        own_ends = [
            (job, end)
            for number, (job, end) in enumerate(zip(self.jobs, ends, strict=True))
            if number not in self._killed
        ]
        for job, end in own_ends:
            if isinstance(end, Failed) and end.report.type != PEER_LOST:
                return job, end
        lost = [
            (job, end if isinstance(end, Lost) else Lost("was stopped from outside"))
            for job, end in own_ends
            if isinstance(end, Lost | Stopped)
        ]
        if not lost:  # Every other one waited in vain for those that had to be killed.
            lost = [(self.jobs[number], Lost("did not answer its peers")) for number in sorted(self._killed)]
        # A process that waits for a lost peer on an accelerator is aborted, so any other signal is nearer to the cause.
        lost.sort(key=lambda job_and_end: signal.SIGABRT.name in job_and_end[1].why)
        if lost:
            return lost[0]
        failed = [(job, end) for job, end in own_ends if isinstance(end, Failed)]
        return failed[0] if failed else (self.jobs[0], Done())

    def leaves_work(self, end: End) -> bool:
        """Return whether the jobs, which ended by `end`, have left any work undone that another attempt would do."""
        if not self.members:
            return not isinstance(end, Done)
        ends = [training_end(member) for member in self.members]
        return not all(isinstance(end, Done) for end in ends) if self.is_gang else None in ends

    def failures(self, end: End) -> list[JobFailed]:
        """Return the errors for the user, of jobs that ended by `end` and are not started again."""
        failures = []
        for member in self.members:
            found = training_end(member)
            # The reports of a gang's processes are consequences of the one cause.
            if isinstance(found, Failed) and not self.is_gang:
                failures.append(found.report.failure(member.name, _traceback_file(member.folder)))
        return [*failures, self._failure(end)] if self.leaves_work(end) else failures

    def _failure(self, end: End) -> JobFailed:
        """Return the error of the job that is the cause of `end`."""
        job = self.cause
        if isinstance(end, Failed):
            name = "the group" if end.report.type == PEER_LOST else job.name
            failure = end.report.failure(name, _traceback_file(job.folder))
        else:
            why = end.why if isinstance(end, Lost) else "ended, but not its training"
            restarts = f", after {self.restarts} restart{'s' * (self.restarts != 1)}" if self.restarts else ""
            failure = JobFailed(f"{capitalised(job.name)} {why}{restarts}; see {job.folder / LOG}", is_user_error=True)
        if not self.is_gang:
            return failure
        message = with_sentence(str(failure), "The other processes of its group were stopped.")
        return JobFailed(message, is_user_error=failure.is_user_error)

    # ---- Requests.

    def is_running(self) -> bool:
        """Return whether any job has not ended."""
        return any(handle.poll() is None for handle in self.handles)

    def stop(self) -> None:
        """Ask all jobs to write a checkpoint and end."""
        for handle in self.handles:
            handle.stop()

    def kill(self) -> None:
        """End all jobs at once."""
        for handle in self.handles:
            handle.kill()


def _traceback_file(folder: Path) -> Path:
    """Return the file with the traceback of an error: the log of the folder's process, or error.json if it has none."""
    return folder / (LOG if (folder / LOG).exists() else ERROR_FILE)
