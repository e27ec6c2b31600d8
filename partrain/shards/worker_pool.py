"""The pool of all workers of a sharded training: they receive the same models, and are replaced when they are lost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Self

import torch

from partrain.device import devices_named, free_bytes, is_cpu, kind_of, num_cores
from partrain.errors import JobFailed, UserError
from partrain.report.formatting import format_quantity
from partrain.shards.messages import AddModel, Message, ModelSpec, RemoveModel, WorkerSettings
from partrain.shards.settings import Shards
from partrain.shards.worker_process import WorkerProcess


def resolve_devices(devices: Sequence[str]) -> list[str]:
    """Return the full names of `devices`, which are all CPUs or all accelerators.

    Raises:
        UserError: If the list is empty, a device does not exist, or CPUs and accelerators are mixed.
    """
    if not devices:
        raise UserError("devices is empty; give at least one, such as cpu")
    named = [devices_named(device, "devices") for device in devices]
    names = [choices[number % len(choices)] for number, choices in enumerate(named)]  # A kind is its devices in turn.
    if len({kind_of(name) for name in names}) > 1:
        raise UserError(f"devices: {', '.join(names)} are not of one kind; give either CPUs or GPUs")
    return names


def worker_settings(devices: Sequence[str], settings: Shards, threads: int | None = None) -> list[WorkerSettings]:
    """Return the settings of one worker for each entry of `devices`.

    Workers with the same device share its memory, and on a CPU its cores.

    Args:
        devices: The device of each worker, all of one kind.
        settings: The settings of shard parallelism.
        threads: The CPU threads of each worker; by default an equal share of the cores.
    """
    is_on_cpu = is_cpu(devices[0])
    num_sharing = max(devices.count(device) for device in devices)
    budget_bytes = _budget_bytes(devices, settings, num_sharing)
    default_threads = max(1, num_cores() // num_sharing) if is_on_cpu else num_cores()
    return [
        WorkerSettings(
            device=device,
            budget_bytes=budget_bytes,
            threads=threads or default_threads,
            uses_separate_buffers=settings.separate or not is_on_cpu,
            double_buffer=settings.double_buffer,
        )
        for device in devices
    ]


def _budget_bytes(devices: Sequence[str], settings: Shards, num_sharing: int) -> int:
    """Return the bytes that each worker may hold: the settings', or else its share of the fullest device's free ones."""
    if settings.budget_gib is not None:
        return int(settings.budget_gib * 2**30)
    return min(free_bytes(torch.device(device), "grouping.budget_gib") for device in set(devices)) // num_sharing


class WorkerPool:
    """A pool of worker processes, one for each device. The processes start when there is something to do.

    Used as a context manager, it stops them at the end.

    Args:
        settings: The settings of each worker.
        log_folder: The folder for a log file of each worker.
        stall_seconds: Seconds after which a worker that computes one unit counts as stuck. Until its first answer a
            worker has 60 more.
        max_restarts: How often each worker is replaced before training fails.
        processes: Whether workers are forked or started anew, the setting `launch.processes`.
    """

    def __init__(
        self,
        settings: Sequence[WorkerSettings],
        log_folder: Path,
        stall_seconds: float,
        max_restarts: int,
        processes: str = "auto",
    ) -> None:
        self._settings = settings
        self._log_folder = log_folder
        self._stall_seconds = stall_seconds
        self._max_restarts = max_restarts
        self._processes = processes
        self._num_restarts = [0] * len(settings)
        self._workers: list[WorkerProcess] = []

    def __len__(self) -> int:
        return len(self._settings)

    def __getitem__(self, number: int) -> WorkerProcess:
        return self._workers[number]

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.stop()

    def start(self) -> None:
        """Start all processes, unless they run."""
        if not self._workers:
            for number in range(len(self._settings)):  # One by one, so that those started are stopped if one cannot be.
                self._workers.append(self._start(number))

    def add_model(self, model_id: int, spec: ModelSpec) -> None:
        """Send a model to all workers, in place of what they hold of it from before."""
        self.start()
        self.remove_model(model_id)
        self._send_all(AddModel(model_id, spec))

    def remove_model(self, model_id: int) -> None:
        """Let all workers forget a model."""
        self._send_all(RemoveModel(model_id))

    def ready(self, timeout: float) -> Iterable[WorkerProcess]:
        """Yield the workers with an answer or a closed connection, waiting up to `timeout` seconds for the first."""
        workers = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(workers), timeout):
            yield workers[connection]  # type: ignore[index]

    def stalled(self) -> Iterable[tuple[WorkerProcess, str]]:
        """Yield the workers that are stuck, each with the reason to replace it."""
        for worker in list(self._workers):
            if worker.is_stalled(self._stall_seconds):
                yield worker, f"spent more than {self._stall_seconds:g} s on one unit"

    def replace(self, worker: WorkerProcess, reason: str, models: Mapping[int, ModelSpec]) -> None:
        """Replace a lost worker by a new process, and send it the models.

        Args:
            worker: The worker that is lost.
            reason: The end of a sentence that begins with the worker's name.
            models: The models in training, by their number.

        Raises:
            JobFailed: If the worker has been replaced too often before.
        """
        worker.kill()
        number = worker.number
        if self._num_restarts[number] >= self._max_restarts:
            restarts = f"after {format_quantity(self._max_restarts, 'restart')}"
            raise JobFailed(f"Worker {number} {reason} {restarts}; see {worker.log}", is_user_error=True)
        self._num_restarts[number] += 1
        self._workers[number] = self._start(number)
        for model_id, spec in models.items():
            self._workers[number].send(AddModel(model_id, spec))

    def _start(self, number: int) -> WorkerProcess:
        """Start the worker of a number."""
        log = self._log_folder / f"{number}.txt"
        return WorkerProcess(number, self._settings[number], log, self._processes)

    def _send_all(self, message: Message) -> None:
        """Send a message to every worker."""
        for worker in self._workers:
            worker.send(message)
