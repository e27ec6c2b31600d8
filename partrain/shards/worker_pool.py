"""All workers of a sharded training: told together, listened to, and replaced when they are lost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import torch

from partrain.device import free_bytes, num_cores
from partrain.errors import JobFailed
from partrain.shards.messages import AddModel, ModelSpec, RemoveModel, WorkerSettings
from partrain.shards.settings import ShardSettings
from partrain.shards.worker_process import WorkerProcess


def worker_settings(
    devices: Sequence[str], settings: ShardSettings, threads: int | None = None
) -> list[WorkerSettings]:
    """For a worker on each of `devices`; those on the same one share it. `threads`: of each; None: an equal share."""
    on_cpu = torch.device(devices[0]).type == "cpu"
    sharing = max(devices.count(device) for device in devices)
    if settings.budget_gib is None:
        budget = min(free_bytes(torch.device(device)) for device in set(devices)) // sharing
    else:
        budget = int(settings.budget_gib * 2**30)
    return [
        WorkerSettings(
            device=device,
            budget_bytes=budget,
            threads=threads or max(1, num_cores() // (sharing if on_cpu else 1)),
            uses_separate_buffers=settings.separate or not on_cpu,
            double_buffer=settings.double_buffer,
        )
        for device in devices
    ]


class WorkerPool:
    """A worker process for each of `settings`, with their logs in `folder`, from the first model on.

    `stall_seconds`, `max_restarts`: of each.
    """

    def __init__(
        self, settings: Sequence[WorkerSettings], folder: Path, stall_seconds: float, max_restarts: int
    ) -> None:
        self._settings, self._folder = settings, folder
        self._stall_seconds, self._max_restarts = stall_seconds, max_restarts
        self.workers: list[WorkerProcess] = []

    def __getitem__(self, number: int) -> WorkerProcess:
        return self.workers[number]

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter(self.workers)

    def add_model(self, model: int, spec: ModelSpec) -> None:
        """Tell all of a model that is to be trained; what they hold of it from before no longer counts."""
        if not self.workers:
            for number, settings in enumerate(self._settings):
                self.workers.append(WorkerProcess(number, settings, self._folder / f"{number}.txt"))
        self.remove_model(model)
        for worker in self.workers:
            worker.send(AddModel(model, spec))

    def remove_model(self, model: int) -> None:
        for worker in self.workers:
            worker.send(RemoveModel(model))

    def ready(self, seconds: float) -> Iterable[WorkerProcess]:
        """Those that have something to say, or are gone; wait for one of them for as long."""
        connections = {worker.connection: worker for worker in self.workers}
        for connection in wait(list(connections), seconds):
            yield connections[connection]  # type: ignore[index]

    def stalled(self) -> Iterable[tuple[WorkerProcess, str]]:
        """Those that have been at one unit for too long, and how that is said."""
        for worker in self.workers:
            if worker.is_stalled(self._stall_seconds):
                yield worker, f"has been at one unit for {self._stall_seconds:g} s"

    def replace(self, worker: WorkerProcess, reason: str, models: Mapping[int, ModelSpec]) -> None:
        """A new process for the worker, which is lost for that `reason`, and is told of `models`.

        Raises:
            JobFailed: it has been lost too often.
        """
        worker.kill()
        worker.restarts += 1
        if worker.restarts > self._max_restarts:
            before = f"it was replaced {self._max_restarts} times before"
            raise JobFailed(f"worker {worker.number} {reason}; {before}; see {worker.log}", is_user_error=True)
        worker.start()
        for model, spec in models.items():
            worker.send(AddModel(model, spec))

    def stop(self) -> None:
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.stop()
