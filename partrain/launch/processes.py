"""The executor of `launch=local`: a process on this machine for each job."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch

from partrain.device import computes_bf16, devices_named, is_cpu, kind_of, num_cores
from partrain.launch.call import Call
from partrain.launch.child_process import ChildProcess, start_process
from partrain.launch.end import Done, End, Failed, Lost, Stopped
from partrain.launch.engines import ENGINES
from partrain.launch.error_report import ErrorReport, read_error_report
from partrain.launch.executor import Handle, Slot
from partrain.launch.settings import Local
from partrain.launch.worker import DONE, FAILED, STOPPED, UNWRITABLE
from partrain.launch.zygote import LOST_WITH_ZYGOTE
from partrain.storage import checkpoint
from partrain.storage.run_folder import LOG, THREADS_FILE
from partrain.training.job import Job


class ProcessHandle:
    """A process that runs a job. It starts at once.

    Args:
        job: The job, which is written in its folder.
        devices: The devices that it may use.
        threads: The number of threads that it begins with.
        processes: Whether it is forked or started anew, the setting `launch.processes`.

    Raises:
        UserError: If the process is to be forked, and cannot be.
    """

    def __init__(self, job: Job, devices: Sequence[str], threads: int, processes: str = "auto") -> None:
        self.job, self.devices = job, tuple(devices)
        self.threads = 0
        self.set_threads(threads)
        # The process ends once its standard input does, which this process alone holds the other end of.
        stdin, lifeline = os.pipe()
        self._lifeline = os.fdopen(lifeline, "wb")
        self.process = self._start(stdin, processes)

    def _start(self, stdin: int, processes: str) -> ChildProcess:
        """Start the process with the descriptor `stdin`, which is closed here."""
        engine = ENGINES[self.job.kind]
        call = Call(
            module="partrain.launch.worker",
            arguments=[str(self.job.folder), ",".join(self.devices)],
            preload=engine.module,
            allocator=engine.allocator,
        )
        try:
            return start_process(call, stdin, self.job.folder / LOG, processes)
        finally:
            os.close(stdin)

    @property
    def is_running(self) -> bool:
        """Return whether the process has not ended."""
        return self.process.poll() is None

    def poll(self) -> End | None:
        """Return how the process ended, or None if it runs."""
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        self._lifeline.close()
        return _process_end(self.job, exit_code)

    def stop(self) -> None:
        """Ask the process to write a checkpoint and end."""
        self.process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def send(self, files: Sequence[Path]) -> None:
        """Do nothing, as the process reads the run's folder itself."""

    def set_threads(self, threads: int) -> None:
        """Write the number of threads that the process is to use to the file that it polls."""
        if threads != self.threads:
            self.threads = threads
            checkpoint.write_text(self.job.folder / THREADS_FILE, str(threads), sync=False)


class ProcessExecutor:
    """An executor that starts a process for each job: on a CPU as many as there are cores for, on GPUs all.

    Args:
        settings: The devices, and the threads of each process.
        devices: The devices instead of those that the settings name.

    Attributes:
        handles: The processes that ran when a job was started last, and that job's.
    """

    def __init__(self, settings: Local, devices: Sequence[str] | None = None) -> None:
        self.settings = settings
        self.devices = list(devices or devices_named(settings.device))
        self.handles: list[ProcessHandle] = []

    def capacity(self) -> list[Slot]:
        """Return the devices. The whole CPU is one."""
        kind = kind_of(self.devices[0])
        processes = self._num_processes() if is_cpu(kind) else 1
        return [
            Slot(kind=kind, processes=processes, computes_bf16=computes_bf16(torch.device(device)))
            for device in self.devices
        ]

    def start(self, job: Job) -> ProcessHandle | None:
        """Start a process for the job, or return None if all cores of the CPU are taken."""
        self.handles = [handle for handle in self.handles if handle.is_running]
        if not self._has_room(job):
            return None
        threads = self._shares([*(handle.job for handle in self.handles), job])[-1]
        handle = ProcessHandle(job, self._choose_devices(job), threads, self.settings.processes)
        self.handles.append(handle)
        return handle

    def share_cores(self, running: Sequence[Handle]) -> None:
        """Set the threads of processes: a fixed number each, or shares of the cores by the cost of their jobs."""
        handles = [handle for handle in self.handles if handle in running]
        for handle, threads in zip(handles, self._shares([handle.job for handle in handles]), strict=True):
            handle.set_threads(threads)

    def _shares(self, jobs: Sequence[Job]) -> list[int]:
        """Return the threads of each of several jobs that run at once."""
        threads = self.settings.threads
        if isinstance(threads, int):
            return [threads] * len(jobs)
        return divide_cores(num_cores(), [job.cost for job in jobs])

    def _has_room(self, job: Job) -> bool:
        """Return whether `job` may start beside those that run. The processes of a gang need one another."""
        return not is_cpu(job.resources.kind) or job.gang is not None or len(self.handles) < self._num_processes()

    def _num_processes(self) -> int:
        """Return how many processes train side by side on the CPU."""
        threads = self.settings.threads
        return max(1, num_cores() // threads) if isinstance(threads, int) else num_cores()

    def _choose_devices(self, job: Job) -> list[str]:
        """Return the devices for `job`: those with the least work on them, the first ones of equals.

        The processes of a gang are on devices of their own as far as there are enough, whatever their work.
        """
        count = len(self.devices) if job.resources.devices is None else job.resources.devices
        load = dict.fromkeys(self.devices, (0, 0.0))
        for handle in self.handles:
            is_peer = job.gang is not None and handle.job.gang == job.gang
            for device in handle.devices:
                peers, cost = load[device]
                load[device] = peers + is_peer, cost + handle.job.cost / len(handle.devices)
        chosen = sorted(self.devices, key=load.__getitem__)[:count]
        return [device for device in self.devices if device in chosen]


def divide_cores(cores: int, costs: Sequence[float]) -> list[int]:
    """Return the number of threads for each of several processes that run at once.

    Every process has at least one thread. Each further core goes to the process with the highest cost per thread.
    """
    threads = [1] * len(costs)
    if not costs:
        return threads
    for _ in range(cores - len(costs)):
        neediest = max(range(len(costs)), key=lambda index: costs[index] / threads[index])
        threads[neediest] += 1
    return threads


def _signal_name(number: int) -> str:
    """Return the name of a signal. Python has none for most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _process_end(job: Job, exit_code: int) -> End:
    """Return the end of the process of `job`."""
    if exit_code == DONE:
        return Done()
    if exit_code == STOPPED:
        return Stopped()
    if exit_code == LOST_WITH_ZYGOTE:
        return Lost("ended, as the process that had forked it has ended")
    if exit_code < 0:
        return Lost(f"was killed by {_signal_name(-exit_code)}")
    if exit_code == UNWRITABLE:
        message = f"{job.folder} cannot be written to; is the disk full?"
        return Failed(ErrorReport(type="OSError", message=message, clear=True, traceback=""))
    report = read_error_report(job.folder) if exit_code == FAILED else None
    if report is not None:
        return Failed(report)
    message = f"ended with exit code {exit_code}; see {job.folder / LOG}"
    return Failed(ErrorReport(type="", message=message, clear=True, traceback=""))
