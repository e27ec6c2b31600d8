"""Executors of the tests' own: one whose jobs end as a script says, and one that shares no folder with the launcher."""

import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from partrain.launch.end import Done, End, Lost, Stopped
from partrain.launch.executor import Slot
from partrain.launch.processes import ProcessHandle
from partrain.launch.worker import run_job
from partrain.storage.run_folder import BOUNDARIES, LOCK
from partrain.training.context import LocalContext
from partrain.training.job import Job

Script = Sequence[End | Callable[[Job], End]]
"""The end of each attempt of a job. A function is called with the job when it ends."""


class ScriptedHandle:
    """A job that ends as its script says, at the second look."""

    def __init__(self, executor: "ScriptedExecutor", job: Job, end: End | Callable[[Job], End] | None) -> None:
        self.executor, self.job = executor, job
        self._end = end
        self._found: End | None = None
        self._looks = 0
        self.sent: list[Path] = []

    def poll(self) -> End | None:
        self._looks += 1
        if self._found is None and self._looks > 1 and self._end is not None:
            self._found = self._end(self.job) if callable(self._end) else self._end
        return self._found

    def stop(self) -> None:
        self.executor.events.append(f"stop {self.job.name}")
        self._found = self._found or Stopped()

    def kill(self) -> None:
        self.executor.events.append(f"kill {self.job.name}")
        self._found = self._found or Lost("was killed by SIGKILL")

    def send(self, files: Sequence[Path]) -> None:
        self.sent += files


@dataclass
class ScriptedExecutor:
    """An executor without processes, on made-up slots."""

    scripts: Mapping[str, Script] = field(default_factory=dict)
    """The script of each job, by its name; a job without one is done at once. After its script a job goes on for ever."""
    slots: Sequence[Slot] = (Slot(kind="cpu"),)
    room: int = 99
    """How many jobs run at once."""
    events: list[str] = field(default_factory=list)
    handles: list[ScriptedHandle] = field(default_factory=list)

    def capacity(self) -> Sequence[Slot]:
        return self.slots

    def start(self, job: Job) -> ScriptedHandle | None:
        if sum(handle._found is None for handle in self.handles) >= self.room and job.gang is None:
            return None
        attempt = self.events.count(f"start {job.name}")
        script = self.scripts.get(job.name, (Done(),))
        self.events.append(f"start {job.name}")
        self.handles.append(ScriptedHandle(self, job, script[attempt] if attempt < len(script) else None))
        return self.handles[-1]

    def share_cores(self, running: Sequence[ScriptedHandle]) -> None:
        self.events.append("share " + ", ".join(handle.job.name for handle in running))


class ScratchHandle:
    """A job in a copy of the launcher's folder, of which every look brings back what has changed."""

    def __init__(self, job: Job, root: Path, scratch: Path, torch_lock: threading.Lock) -> None:
        self.job, self.root, self.scratch = job, root, scratch
        self._times: dict[Path, int] = {}
        shutil.copytree(root, scratch, symlinks=True)
        for path in scratch.rglob("*"):
            if path.is_file():
                self._times[path] = path.stat().st_mtime_ns
        self.folder = scratch / job.folder.relative_to(root)
        self._end: queue.SimpleQueue[End] = queue.SimpleQueue()
        self._found: End | None = None
        self.process: ProcessHandle | None = None
        self.context = LocalContext()
        if job.kind in ("rank", "shards"):
            self.process = ProcessHandle(Job.read(self.folder), ["cpu"], threads=1)
        else:
            threading.Thread(target=self._run_in_thread, args=(torch_lock,), daemon=True).start()

    def _run_in_thread(self, torch_lock: threading.Lock) -> None:
        with torch_lock:  # torch's random generator is one for all threads.
            self._end.put(run_job(Job.read(self.folder), self.context))

    def poll(self) -> End | None:
        if self._found is None:
            end = self._look()
            self._bring_back()
            self._found = end
        return self._found

    def _look(self) -> End | None:
        if self.process is None:
            return None if self._end.empty() else self._end.get()
        return self.process.poll()

    def _bring_back(self) -> None:
        for path in self._changed_files():
            target = self.root / path.relative_to(self.scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = target.with_name(f".{target.name}.brought")
            with suppress(FileNotFoundError):  # The job has replaced it meanwhile, and the next look brings that.
                shutil.copyfile(path, copy)
                copy.replace(target)

    def _changed_files(self) -> Iterator[Path]:
        """Yield what the job has changed in its trainings' folders, and what it has stored for other trainings."""
        members = (self.scratch / member.folder.relative_to(self.root) for member in self.job.members)
        for folder in {self.folder, *members, self.scratch / BOUNDARIES}:
            for path in _files_below(folder):
                with suppress(FileNotFoundError):
                    time = path.stat().st_mtime_ns
                    is_own = path.is_file() and path.name != LOCK and not path.name.startswith(".")
                    if is_own and self._times.get(path) != time:
                        self._times[path] = time
                        yield path

    def stop(self) -> None:
        self.context.request_stop()
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        self.stop()
        if self.process is not None:
            self.process.kill()

    def send(self, files: Sequence[Path]) -> None:
        for file in files:
            target = self.scratch / os.path.relpath(file, self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = target.with_name(f".{target.name}.sent")
            shutil.copyfile(file, copy)
            copy.replace(target)
            self._times[target] = target.stat().st_mtime_ns


def _files_below(folder: Path) -> list[Path]:
    """Return the files below `folder`, in which others come and go meanwhile."""
    return sorted(Path(parent) / name for parent, _, names in os.walk(folder) for name in names)


class ScratchExecutor:
    """An executor whose jobs run in copies of `root`: in threads one after another, and where they must in processes."""

    def __init__(self, root: Path, scratch: Path, slots: Sequence[Slot] = (Slot(kind="cpu"),)) -> None:
        self.root, self.scratch, self.slots = root, scratch, slots
        self.started: list[Job] = []
        self._torch_lock = threading.Lock()

    def capacity(self) -> Sequence[Slot]:
        return self.slots

    def start(self, job: Job) -> ScratchHandle:
        self.started.append(job)
        return ScratchHandle(job, self.root, self.scratch / str(len(self.started)), self._torch_lock)

    def share_cores(self, running: Sequence[ScratchHandle]) -> None:
        torch.set_num_threads(1)
