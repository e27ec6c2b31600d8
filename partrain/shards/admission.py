"""The admission of models to a sharded training: checked, cut, placed in host memory, and handed to the schedule.

Models may be added at any time and from any thread. The session's thread prepares them one at a time, in steps between
its rounds of units. So those that are added during training are prepared while the others train.
"""

import os
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from partrain import checks
from partrain.errors import UserError
from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.shards.host_model import HostModel
from partrain.shards.preparation import ModelPreparer
from partrain.shards.trials import Preparation, Trial
from partrain.storage.checkpoint import remove_partial_files
from partrain.storage.lock import LockSet
from partrain.storage.run_folder import ERROR_FILE
from partrain.training.context import TrainingContext
from partrain.training.task import SegmentTask


@dataclass(frozen=True)
class Candidate:
    """A model that is to join a training."""

    folder: Path
    """The task's folder."""
    task: SegmentTask
    name: str
    """The name that is shown of the model."""
    pause_after: int | None
    """The epoch after which the model pauses, or None."""


class CandidateQueue:
    """A queue of models that are to join the sharded training in `folder`. Any thread may add to it until it is closed.

    Args:
        folder: The folder of the sharded training.
        failures: The error message of each model that failed, by its task's folder. One that is added again loses its.
    """

    def __init__(self, folder: Path, failures: dict[Path, str]) -> None:
        self._folder = folder
        self._failures = failures
        self._lock = threading.Lock()
        self._candidates: list[Candidate] = []
        self._admitted: set[Path] = set()
        """The tasks' folders of all models in the queue or in training."""
        self._is_closed = False

    def add(self, task: str | Path, pause_after: int | None, name: str | None) -> None:
        """Add the model of a task.

        Args:
            task: The task's folder.
            pause_after: The epoch after which the model pauses, or None.
            name: The name that is shown of the model; by default the folder's path.

        Raises:
            UserError: If the folder holds no task, is in training already, or has `train.compile`, which shards cannot
                do. If `pause_after` is below 1. If the training has ended.
        """
        folder = Path(task).absolute()
        segment_task = SegmentTask.read(folder)
        if pause_after is not None:
            checks.at_least(f"{folder}: pause_after", pause_after, 1)
        if segment_task.train.compile:
            raise UserError(f"{folder}: train.compile=true does not work in shards; leave it out")
        name = name or os.path.relpath(folder, self._folder.parent)
        self._append(Candidate(folder, segment_task, name, pause_after))

    def _append(self, candidate: Candidate) -> None:
        """Append a candidate, unless its task is in training or the queue is closed: all in one step."""
        with self._lock:
            if self._is_closed:
                raise UserError(f"{candidate.folder}: this sharded training has ended; make a new one")
            if candidate.folder in self._admitted:
                raise UserError(f"{candidate.folder} is being trained already; give every task once")
            self._admitted.add(candidate.folder)
            self._failures.pop(candidate.folder, None)
            self._candidates.append(candidate)

    def take_all(self) -> list[Candidate]:
        """Remove all candidates from the queue, and return them in the order in which they were added."""
        with self._lock:
            candidates, self._candidates = self._candidates, []
            return candidates

    def release(self, folder: Path) -> None:
        """Allow the task in `folder` to be added again, since its model has left the training."""
        with self._lock:
            self._admitted.discard(folder)

    def close(self) -> None:
        """Refuse all models from now on."""
        with self._lock:
            self._is_closed = True

    def close_if_empty(self) -> bool:
        """Return whether no candidate is in the queue, and if so refuse all models from now on."""
        with self._lock:
            self._is_closed = not self._candidates
            return self._is_closed

    def reopen(self) -> None:
        """Forget all models, and accept those of another training."""
        with self._lock:
            self._candidates = []
            self._admitted = set()
            self._is_closed = False


class Admission:
    """The preparation of models that are to join a training, one at a time and in steps, between rounds of units.

    Args:
        candidates: The queue of models to prepare.
        context: The requests to stop.
        preparer: The preparer, which cuts models and places them.
        locks: The locks of the tasks' folders, from their preparation to their release. None if the process of a job
            holds them.

    Attributes:
        trial: The trial that the preparation asked for last, until it goes on with the outcome.
    """

    def __init__(
        self,
        candidates: CandidateQueue,
        context: TrainingContext,
        preparer: ModelPreparer,
        locks: LockSet | None = None,
    ) -> None:
        self.trial: Trial | None = None
        self._locks = locks
        self._candidates = candidates
        self._context = context
        self._preparer = preparer
        self._pending: deque[tuple[Candidate, Preparation[HostModel]]] = deque()
        """The models in preparation. Only that of the first has begun."""

    def begin_first(self) -> None:
        """Begin to prepare all models that have been added so far.

        Raises:
            UserError: If there is no model, or all together do not fit into host memory.
        """
        candidates = self._candidates.take_all()
        if not candidates:
            raise UserError("There is no model to train; give at least one task")
        self._preparer.check_host_memory([candidate.task for candidate in candidates])
        self._pending.extend((candidate, self._prepare(candidate)) for candidate in candidates)

    def begin_added(self) -> None:
        """Begin to prepare the models that have been added since the last call."""
        candidates = self._candidates.take_all()
        self._pending.extend((candidate, self._check_and_prepare(candidate)) for candidate in candidates)

    @property
    def is_busy(self) -> bool:
        """Return whether any model is in preparation."""
        return bool(self._pending)

    @property
    def can_continue(self) -> bool:
        """Return whether any model is in preparation that does not wait for a trial."""
        return self.is_busy and (self.trial is None or self.trial.outcome is not None)

    def next_prepared(self) -> tuple[Candidate, HostModel | Exception] | None:
        """Prepare a model until it needs a trial, or to its end.

        Returns:
            The candidate with its model, or with the error that it cannot be prepared. None if its preparation has not
            ended, or there is none.
        """
        if not self.can_continue:
            return None
        candidate, preparation = self._pending[0]
        prepared: HostModel | Exception
        try:
            self.trial = next(preparation)
            return None
        except StopIteration as end:
            prepared = end.value
        except Exception as error:
            prepared = error
        self.trial = None
        self._pending.popleft()
        return candidate, prepared

    def close_if_idle(self) -> bool:
        """Return whether no model is in the queue or in preparation, and if so let no more join."""
        return not self.is_busy and self._candidates.close_if_empty()

    def close(self) -> None:
        """Let no more models join, and abandon those in preparation."""
        self._candidates.close()
        self.trial = None
        for _, preparation in self._pending:
            preparation.close()
        self._pending.clear()

    def release(self, folder: Path) -> None:
        """Allow the task in `folder` to be added again, here or elsewhere, since its model has left the training."""
        if self._locks is not None:
            self._locks.release(folder)
        self._candidates.release(folder)

    def _check_and_prepare(self, candidate: Candidate) -> Preparation[HostModel]:
        """Prepare a model if it fits into host memory beside those that train."""
        self._preparer.check_host_memory([candidate.task])
        return (yield from self._prepare(candidate))

    def _prepare(self, candidate: Candidate) -> Preparation[HostModel]:
        """Cut and place a model. One that has no steps left only writes what it leaves."""
        if self._locks is not None:
            self._locks.hold(candidate.folder)
            remove_partial_files(candidate.folder)
        (candidate.folder / ERROR_FILE).unlink(missing_ok=True)
        threads = self._preparer.worker.threads
        with TORCH_PATCH_LOCK:
            model = HostModel(candidate.folder, candidate.name, self._context, candidate.pause_after, threads)
        if model.has_steps_left:
            yield from self._preparer.prepare(model)
        else:
            model.save()
        return model
