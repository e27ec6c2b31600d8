"""A process that trains: how it is started and stopped, and what it says when it fails."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partrain.errors import JobFailed
from partrain.launch.worker import UNWRITABLE
from partrain.storage import checkpoint
from partrain.storage.run_folder import ERROR_FILE, LOG, THREADS_FILE

# glibc's allocator for training: it would give memory back to the system and fetch it again at every step, which can
# double a step's time, and keep large blocks that are no longer needed. Other allocators pass these over.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "32000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch: large tensors in huge pages
}


@dataclass
class Job:
    """A process to run: its task's `folder`, a `name` for people, and its share of the work in any unit.

    `module` is the engine that it runs (see `worker`), with `environment` besides its launcher's. `members`: the
    trainings in it, their folders and names, where the process has more than one.
    """

    folder: Path
    name: str
    device: str
    cost: float
    module: str = "partrain.training.segment"
    environment: dict[str, str] = field(default_factory=dict)
    members: dict[Path, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    restarts: int = field(default=0, init=False)
    threads: int = field(default=0, init=False)

    def trainings(self) -> dict[Path, str]:
        """Folders and names of what it trains."""
        return self.members or {self.folder: self.name}

    def start(self) -> None:
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
                env=environment(self.environment),
                start_new_session=True,
            )

    def give_threads(self, threads: int) -> None:
        if threads != self.threads:
            self.threads = threads
            checkpoint.write_text(self.folder / THREADS_FILE, str(threads))

    def report(self) -> dict[str, Any] | None:
        """What the process said of its own failure, if it could."""
        return _report(self.folder)

    def dropped(self) -> list[JobFailed]:
        """Of a pack that is done, the trainings that failed in it."""
        return reported(self.members)

    def stop(self) -> None:
        """Ask the process to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, seconds: float = 30) -> None:
        """Wait until the process has ended; insist after a while."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def failure(self, code: int) -> JobFailed:
        """What happened to a process that ended with `code`."""
        report = self.report()
        if report is None:
            if code == UNWRITABLE:
                return JobFailed(
                    f"{self.name}: {self.folder} cannot be written to; is the disk full?", is_user_error=True
                )
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            log = self.folder / LOG
            often = f", after {self.restarts} restarts" if self.restarts else ""
            return JobFailed(f"{self.name} {how}{often}; see {log}", is_user_error=True)
        return _failure(self.name, report)


def reported(trainings: Mapping[Path, str]) -> list[JobFailed]:
    """What those of `trainings`, folders and names, said of their failures that have failed."""
    reports = {name: _report(folder) for folder, name in trainings.items()}
    return [_failure(name, report) for name, report in reports.items() if report is not None]


def raise_all(failures: Sequence[JobFailed]) -> None:
    """Raise them as one, if there are any."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        message = "\n".join(sorted(map(str, failures)))
        raise JobFailed(message, is_user_error=all(failure.is_user_error for failure in failures))


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """A training process's: its launcher's modules and settings, and its `own`."""
    modules = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {**ALLOCATOR, **os.environ, "PYTHONPATH": modules, **own}


def _report(folder: Path) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = checkpoint.read_json(folder / ERROR_FILE)
        return report
    except (FileNotFoundError, ValueError):
        return None


def _failure(name: str, report: dict[str, Any]) -> JobFailed:
    """What a training called `name` said of its own failure."""
    if report["clear"]:
        message = report["message"] if name in report["message"] else f"{name}: {report['message']}"
        return JobFailed(message, is_user_error=True)
    return JobFailed(f"{name}: {report['type']}: {report['message']}\n{report['traceback']}", is_user_error=False)
