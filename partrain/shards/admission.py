"""Models on their way in: added at any time, cut and laid into host memory one after another, then handed over."""

import os
import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from partrain import checks
from partrain.errors import UserError
from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.preparation import ModelPreparer
from partrain.storage.run_folder import ERROR_FILE
from partrain.training.context import TrainingContext
from partrain.training.task import SegmentTask


@dataclass(frozen=True)
class Candidate:
    """The model of `task` in its `folder`, which is to join. `name`: for people. `pause_after`: the epoch after
    which it is to."""

    folder: Path
    task: SegmentTask
    name: str
    pause_after: int | None


class Admission:
    """Of the sharded training in `folder`."""

    def __init__(self, folder: Path, context: TrainingContext, preparer: ModelPreparer) -> None:
        self._folder, self._control, self._preparer = folder, context, preparer
        self._waiting: queue.SimpleQueue[Candidate] = queue.SimpleQueue()
        self._under_way: dict[Future[HostModel], Candidate] = {}
        self._here: set[Path] = set()  # tasks of candidates and of models that train

    def add(self, task: str | Path, pause_after: int | None, name: str | None) -> None:
        """Any thread may.

        Raises:
            ValueError: the folder is no task's, is here already, or asks for what shards have not.
        """
        folder = Path(task).absolute()
        settings = SegmentTask.read(folder)
        if pause_after is not None:
            checks.at_least(f"{folder}: pause_after", pause_after, 1)
        if folder in self._here:
            raise UserError(f"{folder} is being trained already; give every task once")
        if settings.train.compile:
            raise UserError(f"{folder}: train.compile=true is not for shards; leave it out")
        self._here.add(folder)
        self._waiting.put(
            Candidate(folder, settings, name or os.path.relpath(folder, self._folder.parent), pause_after)
        )

    def first(self, host: HostMemory) -> list[HostModel]:
        """All that have been added so far, prepared here and now in `host`.

        Raises:
            ValueError: there is none, or one of them, or all of them, do not fit.
        """
        candidates = self._added()
        if not candidates:
            raise UserError("tasks: there is none; give at least one")
        needed = [self._preparer.estimate_host_bytes(each.task) for each in candidates]
        host.check_free(sum(needed) + max(needed))  # one at a time is there twice, while it is tried
        return [self._prepare(each, host) for each in candidates]

    def later(self, host: HostMemory) -> Iterator[tuple[Candidate, HostModel | Exception]]:
        """Those that have been added since and are prepared now, in a thread of its own, or why they cannot be."""
        for candidate in self._added():
            self._under_way[self._thread.submit(self._check_and_prepare, candidate, host)] = candidate
        for future in [future for future in self._under_way if future.done()]:
            candidate, error = self._under_way.pop(future), future.exception()
            if error is None:
                yield candidate, future.result()
            elif isinstance(error, Exception):
                yield candidate, error
            else:
                raise error

    def is_left(self) -> bool:
        """Whether anyone is still to come."""
        return bool(self._under_way) or not self._waiting.empty()

    def gone(self, folder: Path) -> None:
        """The task is no longer here; it may be added again."""
        self._here.discard(folder)

    def _added(self) -> list[Candidate]:
        return [self._waiting.get() for _ in range(self._waiting.qsize())]

    def _check_and_prepare(self, candidate: Candidate, host: HostMemory) -> HostModel:
        host.check_free(2 * self._preparer.estimate_host_bytes(candidate.task))
        return self._prepare(candidate, host)

    def _prepare(self, candidate: Candidate, host: HostMemory) -> HostModel:
        before = torch.get_num_threads()
        torch.set_num_threads(self._preparer.worker.threads)  # as it will be computed
        try:
            with TORCH_PATCH_LOCK:
                (candidate.folder / ERROR_FILE).unlink(missing_ok=True)
                host_model = HostModel(candidate.folder, candidate.name, self._control, candidate.pause_after)
                if host_model.next_step is None:
                    host_model.save()
                else:
                    self._preparer.prepare(host_model, host)
                return host_model
        finally:
            torch.set_num_threads(before)

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
