"""A training process from its launcher's side: how it is started and stopped, and the error that it ended with."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from partrain.errors import JobFailed
from partrain.launch.error_report import capitalised, read_error_report, reported_failures
from partrain.launch.worker import UNWRITABLE
from partrain.storage import checkpoint
from partrain.storage.run_folder import ERROR_FILE, LOG, THREADS_FILE

# Settings of glibc's allocator for training. By default it returns memory to the system and fetches it again at every
# step, which can double a step's time, and keeps large blocks that are no longer needed. Other allocators ignore them.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "32000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch: large tensors in huge pages
}


@dataclass
class Job:
    """A process that trains one task or several: what to start, and the process once it is started."""

    folder: Path
    """The folder of the task."""
    name: str
    """The name in messages, e.g. "segment 0"."""
    device: str
    cost: float
    """The share of the work, in any unit that all jobs started together have in common."""
    module: str = "partrain.training.segment"
    """The engine that the process runs, see `partrain.launch.worker`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables besides the launcher's own."""
    members: dict[Path, str] = field(default_factory=dict)
    """The names of the trainings in the process, by folder, if it has more than one."""
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    restarts: int = field(default=0, init=False)
    threads: int = field(default=0, init=False)

    def trainings(self) -> dict[Path, str]:
        """Return the names of the trainings in this process, by folder."""
        return self.members or {self.folder: self.name}

    def start(self) -> None:
        """Start the process, with its output appended to log.txt. Reports of earlier errors are deleted."""
        (self.folder / ERROR_FILE).unlink(missing_ok=True)
        if self.restarts == 0:
            for member in self.members:
                (member / ERROR_FILE).unlink(missing_ok=True)

        with (self.folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partrain.launch", self.module, str(self.folder), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=process_environment(self.environment),
                start_new_session=True,
            )

    def set_threads(self, threads: int) -> None:
        """Write the number of threads that the process is to use to the file that it polls."""
        if threads != self.threads:
            self.threads = threads
            checkpoint.write_text(self.folder / THREADS_FILE, str(threads))

    def exit_code(self) -> int | None:
        """Return the process's exit code, negative for a signal, or None if it runs or was never started."""
        return self.process.poll() if self.process is not None else None

    def stop(self) -> None:
        """Ask the process to write a checkpoint and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, seconds: float = 30) -> None:
        """Wait until the process has ended, and kill it if it has not after `seconds`."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def failure(self, exit_code: int) -> JobFailed:
        """Return the error for a process that ended with `exit_code`: its own report, or else how it ended."""
        report = read_error_report(self.folder)
        if report is not None:
            return report.failure(self.name, self.folder / LOG)
        name = capitalised(self.name)
        if exit_code == UNWRITABLE:
            return JobFailed(f"{name}: {self.folder} cannot be written to; is the disk full?", is_user_error=True)

        end = f"ended with exit code {exit_code}"
        if exit_code < 0:
            end = f"was killed by {signal.Signals(-exit_code).name}"
        restarts = f", after {self.restarts} restart{'s' * (self.restarts != 1)}" if self.restarts else ""
        return JobFailed(f"{name} {end}{restarts}; see {self.folder / LOG}", is_user_error=True)

    def member_failures(self) -> list[JobFailed]:
        """Return the errors of the trainings that failed in a process which itself went on to its end."""
        return reported_failures(self.members)


def process_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a training process: its launcher's, with the same modules, and then `variables`."""
    modules = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {**ALLOCATOR, **os.environ, "PYTHONPATH": modules, **variables}
