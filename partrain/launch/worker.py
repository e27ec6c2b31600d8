"""The process that runs a job: `python -m partrain.launch partrain.launch.worker <folder> <devices>`, or a forked one.

The folder holds job.json, which names the engine, and the process runs what that engine makes of it. The launcher holds
the other end of the process's standard input. When that closes, the launcher is gone, and the process ends.
"""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from partrain.launch.end import Done, End, Failed, Stopped
from partrain.launch.engines import ENGINES, Engine
from partrain.launch.error_report import ErrorReport, write_error_report
from partrain.storage import checkpoint
from partrain.storage.lock import wait_for_locks
from partrain.storage.run_folder import ERROR_FILE, MESSAGES, THREADS_FILE
from partrain.training.context import LocalContext, TrainingContext
from partrain.training.job import Job
from partrain.training.meters import PeakMemory

# Exit codes. A process that failed and could not even write error.json, as the disk is full, ends with UNWRITABLE.
DONE, FAILED, UNWRITABLE, STOPPED = 0, 1, 74, 75

_ORPHAN_SECONDS = 1.0
"""Seconds that a training has for its checkpoint when its launcher is gone."""
_WAITING_ORPHAN_SECONDS = 5.0
"""Seconds after which a process that may wait for a peer ends when its launcher is gone."""


def main(arguments: Sequence[str]) -> int:
    """Run the job in the folder that the command line names, and return the exit code."""
    folder, devices = arguments
    job = Job.read(Path(folder))
    context = WorkerContext(job.folder, devices.split(","))
    engine = ENGINES[job.kind]
    signal.signal(signal.SIGTERM, signal.SIG_DFL if engine.ends_at_once else context.request_stop)
    # Whoever interrupts all of a user's processes means the launcher, which alone decides when its own stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context.follow_launcher(engine)

    end = run_job(job, context)
    if isinstance(end, Failed):
        return FAILED if (job.folder / ERROR_FILE).exists() else UNWRITABLE
    return DONE if isinstance(end, Done) else STOPPED


def run_job(job: Job, context: TrainingContext) -> End:
    """Run the engine of `job`, whose files are in its folder, and write error.json there if it fails."""
    memory = PeakMemory()
    folders = sorted({job.folder, *(member.folder for member in job.members)})
    try:
        with wait_for_locks(folders, context.should_stop, context.print) as are_held:
            if not are_held:
                return Stopped()
            context.poll()
            engine = importlib.import_module(ENGINES[job.kind].module)
            work = engine.make_work(job, context, memory)
            context.poll()  # Other jobs may have started meanwhile, which take some of the cores.
            return Done() if work.run() else Stopped()
    except Exception as error:
        traceback.print_exc()
        _write_report(job.folder, error)
        return Failed(ErrorReport.from_exception(error))


class WorkerContext(LocalContext):
    """The context of a job in a process of its own, which obeys the launcher.

    Args:
        folder: The job's folder, where the launcher writes the number of threads.
        devices: The devices that the job may use.
    """

    def __init__(self, folder: Path, devices: Sequence[str]) -> None:
        super().__init__(devices[0])
        self.devices = devices
        self._folder = folder
        self._threads_version: tuple[int, ...] = ()

    def poll(self) -> None:
        """Use the number of threads that the launcher has written last."""
        file = self._folder / THREADS_FILE
        version = checkpoint.file_version(file)
        if version != self._threads_version:
            self._threads_version = version
            torch.set_num_threads(int(file.read_text()))

    def print(self, line: str) -> None:
        """Append a line to the job's messages, which the launcher shows, and to its log. A full disk does no harm."""
        with suppress(OSError):
            print(line, flush=True)
            with (self._folder / MESSAGES).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def follow_launcher(self, engine: Engine) -> None:
        """Stop when the launcher is gone, which closes this process's standard input. Steps do not wait for that."""

        def wait_for_end() -> None:
            os.read(sys.stdin.fileno(), 1)
            if engine.ends_at_once:
                os._exit(STOPPED)
            self.stop_seconds = _ORPHAN_SECONDS
            self.request_stop()
            if engine.waits_for_peers:
                time.sleep(_WAITING_ORPHAN_SECONDS)
                os._exit(STOPPED)

        threading.Thread(target=wait_for_end, daemon=True).start()


def _write_report(folder: Path, error: Exception) -> None:
    """Write the report of `error`. If that is not possible either, as the disk is full, the log says so."""
    try:
        write_error_report(folder, error)
    except OSError as unwritable:
        print(unwritable, file=sys.stderr)
