"""One session of a sharded training: the loop that assigns units to workers and records their results.

Every round of the loop assigns units to workers, waits for results, and handles what follows from them: a step ends, a
checkpoint is written, a model leaves or fails, or a worker is lost.
"""

import gc
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from partrain.errors import UserError
from partrain.launch.error_report import ReportedError, write_error_report
from partrain.shards.admission import Admission, Candidate
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.messages import Prefetch, ProfileRequest, ProfileResult, UnitFailure, UnitResult
from partrain.shards.scheduler import Scheduler
from partrain.shards.simulator import Load
from partrain.shards.timeline import TimelineWriter
from partrain.shards.trials import TRIAL_WORKER, Trial
from partrain.shards.view import TrainingView
from partrain.shards.worker_pool import WorkerPool
from partrain.shards.worker_process import WorkerProcess
from partrain.storage.lock import FolderInUse
from partrain.storage.run_folder import ERROR_FILE
from partrain.training.context import TrainingContext

_RESULT_SECONDS = 0.5
"""Seconds to wait for a worker's result in one round."""
_BUSY_SECONDS = 0.01
"""Seconds to wait instead if there is more to do soon: a checkpoint is being written, or a model prepared."""


class CheckpointWriter:
    """A thread that writes checkpoints while workers compute units of other models.

    Used as a context manager, it waits in the end until all are written.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._pending: dict[int, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        """Return whether any checkpoint is still to be written, or its end to be collected."""
        return bool(self._pending)

    def submit(self, model_id: int, model: HostModel) -> None:
        """Start to write a model's checkpoint."""
        self._pending[model_id] = self._thread.submit(model.save)

    def take_finished(self) -> list[tuple[int, BaseException | None]]:
        """Return the models whose checkpoints have been written since the last call, each with its error or None."""
        finished = [model_id for model_id, future in self._pending.items() if future.done()]
        return [(model_id, self._pending.pop(model_id).exception()) for model_id in finished]


@dataclass(kw_only=True)
class TrainingHistory:
    """The models that have left a sharded training: why they failed, and what they cost."""

    failures: dict[Path, str] = field(default_factory=dict)
    """The error message of each model that failed, by its task's folder."""
    loads: dict[int, Load] = field(default_factory=dict)
    """What the units of each model have cost, by its number."""


@dataclass(kw_only=True)
class Session:
    """A session of a sharded training, from the first model to the last or to a stop."""

    scheduler: Scheduler
    admission: Admission
    host: HostMemory
    pool: WorkerPool
    writer: CheckpointWriter
    timeline: TimelineWriter
    view: TrainingView
    context: TrainingContext
    history: TrainingHistory
    on_leave: Callable[[Path], None]
    """The user's function, called with the task's folder of every model that ends, pauses or fails."""
    on_poll: Callable[[], None]
    """A function that is called between rounds of units, which may add models."""
    should_prefetch: bool
    """Whether workers copy in the shard that is likely to be needed next."""
    models: dict[int, HostModel] = field(default_factory=dict)
    """The models in training, by their number in the schedule."""
    models_to_reload: set[int] = field(default_factory=set)
    """The models to take back to their checkpoints once the unit that is under way has ended."""

    # ---- The loop.

    def run(self) -> None:
        """Train until no model is left, or, once a stop is requested, until the steps under way have ended."""
        try:
            for model in self.prepare_first_models():
                self.add_model(model)
            self.admit_models()
            while not self.has_ended():
                self.run_once()
        finally:
            self.admission.close()
            self.scheduler.remove_all()  # Another session may follow.

    def prepare_first_models(self) -> list[HostModel]:
        """Return the models that have been added so far, once all are prepared. If a stop is requested, return none.

        A model that cannot be prepared fails, and the others train. If none can be, the error of the first is raised.
        """
        models: list[HostModel] = []
        errors: list[Exception] = []
        self.admission.begin_first()
        while self.admission.is_busy:
            if self.context.should_stop():
                return []
            match self.admission.next_prepared():
                case None:
                    self.exchange_messages(_BUSY_SECONDS)
                case _, HostModel() as model:
                    models.append(model)
                case candidate, Exception() as error:
                    self.refuse(candidate, error)
                    if isinstance(error, ReportedError):
                        error = error.report.failure(candidate.name, candidate.folder / ERROR_FILE)
                    errors.append(error)
        if errors and not models:
            raise errors[0]
        return models

    def has_ended(self) -> bool:
        """Return whether no unit is under way or to be assigned. From then on no model may join any more."""
        if self.scheduler.has_work():
            return False
        return self.scheduler.is_draining or self.admission.close_if_idle()

    def run_once(self) -> None:
        """Assign units, and handle what has happened by the time that a worker answers."""
        self.context.poll()
        self.on_poll()
        self.assign_units()
        self.request_prefetches()
        has_more = self.writer.is_busy or self.admission.can_continue
        self.exchange_messages(_BUSY_SECONDS if has_more else _RESULT_SECONDS)
        self.finish_saves()
        self.view.update_models(self.models.values(), self.scheduler.remaining_seconds() / len(self.pool))
        self.admit_models()

    def exchange_messages(self, timeout: float) -> None:
        """Send a trial that is waiting, handle the answers within `timeout` seconds, and replace workers that are stuck."""
        trial = self.admission.trial
        if trial is not None and trial.is_to_be_sent:
            self.begin_trial(trial)
        for worker in self.pool.ready(timeout):
            self.receive(worker)
        for worker, reason in self.pool.stalled():
            self.replace_worker(worker, reason)

    def begin_trial(self, trial: Trial) -> None:
        """Send a trial to its worker, once no step of any model needs that worker to be ended."""
        self.scheduler.reserved.add(TRIAL_WORKER)
        if self.scheduler.is_free(TRIAL_WORKER):
            self.pool.start()
            self.pool[TRIAL_WORKER].send(ProfileRequest(trial.spec))
            trial.is_sent = True

    def assign_units(self) -> None:
        """Send each worker the units that the scheduler assigns to it."""
        for device, unit in self.scheduler.assign():
            self.pool[device].send(self.models[unit.model_id].make_request(unit))

    def request_prefetches(self) -> None:
        """Let each worker with a single unit copy in the shard that the unit's model needs next."""
        if not self.should_prefetch:
            return
        for worker in self.pool:
            unit = self.scheduler.next_to_prefetch(worker.number)
            if unit is not None and unit != worker.last_prefetched:
                worker.last_prefetched = unit
                version = self.models[unit.model_id].versions[unit.shard]
                worker.send(Prefetch(unit.model_id, unit.shard, version, unit.is_backward))

    def receive(self, worker: WorkerProcess) -> None:
        """Handle a worker's answer, or its death."""
        answer = worker.receive()
        if answer is None:
            self.replace_worker(worker, "died")
        elif isinstance(answer, UnitResult | UnitFailure):
            self.receive_unit(worker, answer)
        elif isinstance(answer, ProfileResult):
            self.scheduler.reserved.discard(TRIAL_WORKER)
            assert self.admission.trial is not None
            self.admission.trial.outcome = answer.outcome

    def receive_unit(self, worker: WorkerProcess, answer: UnitResult | UnitFailure) -> None:
        """Handle the result of a unit, or its failure."""
        model_id = answer.unit.model_id
        if model_id in self.models_to_reload:
            self.reload_model(model_id)
        elif isinstance(answer, UnitFailure):
            self.fail_model(model_id, answer.error)
        else:
            self.timeline.add(worker.number, self.models[model_id].name, answer)
            self.record_result(worker.number, answer)

    def record_result(self, device: int, result: UnitResult) -> None:
        """Record what a unit has computed, and start to write a checkpoint if one is due."""
        model_id = result.unit.model_id
        model = self.models[model_id]
        begin, end = result.compute_span
        self.scheduler.complete(device, result.unit, None if result.is_cold else end - begin)
        try:
            is_checkpoint_due = model.record(result)
        except UserError as error:
            self.fail_model(model_id, error)
            return
        self.scheduler.set_num_steps(model_id, model.remaining_steps.stop)
        if is_checkpoint_due:
            # A checkpoint takes as long as many units. Those of other models are computed meanwhile.
            self.scheduler.suspend(model_id)
            self.writer.submit(model_id, model)

    def finish_saves(self) -> None:
        """Let models whose checkpoints are written continue, or leave if they have no steps left."""
        for model_id, error in self.writer.take_finished():
            if isinstance(error, Exception):
                self.fail_model(model_id, error)
            elif self.models[model_id].has_steps_left:
                self.scheduler.resume(model_id)
            else:
                self.remove_model(model_id)

    # ---- Models join and leave.

    def admit_models(self) -> None:
        """Go on to prepare a model, and add it if it is ready, or, once a stop is requested, let no new steps begin."""
        self.scheduler.is_draining = self.context.should_stop()
        if self.scheduler.is_draining:
            return
        self.admission.begin_added()
        match self.admission.next_prepared():
            case _, HostModel() as model:
                self.add_model(model)
            case candidate, Exception() as error:
                self.refuse(candidate, error)

    def refuse(self, candidate: Candidate, error: Exception) -> None:
        """Report why a model cannot join."""
        self.report_failure(candidate.folder, candidate.name, error)
        self.leave(candidate.folder)

    def add_model(self, model: HostModel) -> None:
        """Schedule a prepared model and send it to the workers. One without steps left leaves at once."""
        self.view.add_model(model)
        if not model.is_prepared:
            self.view.finish(model.folder)
            self.leave(model.folder)
            return
        steps = model.remaining_steps
        unit_seconds = [cost.seconds for cost in model.costs]
        model_id = self.scheduler.add(len(model.spec.shards), steps.stop, unit_seconds, steps.start)
        self.models[model_id] = model
        self.pool.add_model(model_id, model.spec)

    def remove_model(self, model_id: int) -> None:
        """Free all that a model holds, after it has ended, paused or failed."""
        model = self.models.pop(model_id)
        self.history.loads[model_id] = model.as_load(self.scheduler.unit_seconds(model_id))
        self.scheduler.remove(model_id)
        self.models_to_reload.discard(model_id)
        self.pool.remove_model(model_id)
        self.host.delete_files(model.files())
        model.close()
        gc.collect()  # Modules refer to themselves, and to the memory that is bound to them.
        self.view.finish(model.folder)
        self.leave(model.folder)

    def leave(self, folder: Path) -> None:
        """Allow the task in `folder` to join again, and call the user's function for models that have left."""
        self.admission.release(folder)
        self.on_leave(folder)

    def save_unfinished(self) -> None:
        """Write the checkpoints of the models that are in training still, after a stop, as far as there is time."""
        began_at, limit = time.monotonic(), self.context.stop_seconds
        for model_id in sorted(self.models):
            model = self.models[model_id]
            seconds = time.monotonic() - began_at + model.training.estimate_saving_seconds()
            if limit is None or seconds < limit:
                model.save_checkpoint()
            self.history.loads[model_id] = model.as_load(self.scheduler.unit_seconds(model_id))

    # ---- Failures.

    def fail_model(self, model_id: int, error: Exception) -> None:
        """Report a model's error and remove the model. The others continue."""
        model = self.models[model_id]
        self.report_failure(model.folder, model.name, error)
        self.remove_model(model_id)

    def report_failure(self, folder: Path, name: str, error: Exception) -> None:
        """Report an error on the terminal, in the history, and in the task's folder, unless that is another's."""
        self.history.failures[folder] = str(error) or type(error).__name__
        if not isinstance(error, FolderInUse):
            write_error_report(folder, error)
        self.view.report_failure(name, error)

    def replace_worker(self, worker: WorkerProcess, reason: str) -> None:
        """Replace a lost worker, and take the models that depended on it back to their checkpoints.

        Args:
            worker: The worker that died or is stuck.
            reason: The end of a sentence that begins with the worker's name.
        """
        self.pool.replace(worker, reason, {model_id: model.spec for model_id, model in self.models.items()})
        if worker.number == TRIAL_WORKER and self.admission.trial is not None:
            self.admission.trial.is_sent = False
        lost = self.scheduler.lose_device(worker.number)
        self.view.report_lost_worker(worker.number, reason, len(lost))
        for model_id in lost:
            if self.scheduler.is_queued(model_id):
                # Another worker computes a unit of it now, and would change its shards after the reload.
                self.models_to_reload.add(model_id)
            else:
                self.reload_model(model_id)

    def reload_model(self, model_id: int) -> None:
        """Take a model back to its latest checkpoint, here and in the workers."""
        self.models_to_reload.discard(model_id)
        model = self.models[model_id]
        model.reload()
        self.pool.add_model(model_id, model.spec)
        self.scheduler.restart(model_id, model.remaining_steps.start)
