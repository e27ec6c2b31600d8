"""Shard parallelism from tasks to trained models (arXiv 2110.08633): cut, place, schedule, supervise.

This process holds every model in host memory, and the schedule; a worker per device computes units. Only shards, what
crosses between them and a few numbers travel.
"""

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from partrain.launch.placement import each_placed
from partrain.launch.worker import write_report
from partrain.shards.admission import Admission
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.messages import Prefetch, UnitFailure, UnitResult
from partrain.shards.policies import POLICIES, Policy
from partrain.shards.preparation import ModelPreparer
from partrain.shards.scheduler import Scheduler
from partrain.shards.settings import ShardSettings
from partrain.shards.simulator import Load, write_loads
from partrain.shards.timeline import TimelineWriter
from partrain.shards.view import TrainingView
from partrain.shards.worker_pool import WorkerPool, worker_settings
from partrain.shards.worker_process import WorkerProcess
from partrain.storage.run_folder import COSTS, WORKER_LOGS
from partrain.training.context import TrainingContext, handle_signals

_POLL, _SAVED = 0.5, 0.01  # seconds between looks at workers that are silent, and at checkpoints being written


class ShardedTraining:
    """Models trained at once on `devices`, a worker on each; models join and leave.

    `devices`, `folder`, `settings`, `policy`, `seed`, `show_progress`: as `train_sharded` has them. `threads`: of a
    worker; None: an
    equal share of the cores. `max_restarts`: of a worker that is lost. `failures`: why those failed that did, by task.
    """

    def __init__(
        self,
        devices: Sequence[str],
        folder: str | Path,
        settings: ShardSettings | None = None,
        policy: Policy | None = None,
        threads: int | None = None,
        max_restarts: int = 3,
        seed: int = 0,
        *,
        show_progress: bool = True,
    ) -> None:
        self.settings = settings = settings or ShardSettings()
        self.max_restarts = max_restarts
        self.folder = Path(folder).absolute()
        self.workers = worker_settings(each_placed(devices), settings, threads)
        self.view = TrainingView(self.folder, show_progress=show_progress)
        self.context = TrainingContext(self.folder)
        self.failures: dict[Path, str] = {}
        self.admission = Admission(self.folder, self.context, ModelPreparer(settings, self.workers[0]))
        policy = policy or POLICIES[settings.policy](seed)
        self.scheduler = Scheduler(
            len(devices), policy, pins_backward=settings.activations == "keep", double_buffer=settings.double_buffer
        )
        self.host_models: dict[int, HostModel] = {}
        self.loads: dict[int, Load] = {}  # of those that have left
        self.to_reload: set[int] = set()
        self.saving: dict[int, Future[None]] = {}

    def add(self, task: str | Path, pause_after: int | None = None, name: str | None = None) -> None:
        """Let the model of `task` (its folder) join: before `run`, or from any thread while it is under way.

        Its checkpoint, if it has one, is where it begins. `pause_after`: the epoch after which it is to. `name`: for people.

        Raises:
            ValueError: the folder is no task's, or is here already.
        """
        self.admission.add(task, pause_after, name)
        self.failures.pop(Path(task).absolute(), None)

    def run(self, ended: Callable[[Path], None] | None = None) -> None:
        """Train all that have been added, or are while it is under way; then it returns.

        `ended` is called with the task of every model that has come to its end, to its pause or to grief; it may `add`.

        Raises:
            ValueError: there is no model, or one of those that are there at the beginning, or all of them, do not fit.
            JobFailed: a worker was lost too often.
            KeyboardInterrupt: Ctrl-C; the steps that were begun are done, and every model has its checkpoint.
        """
        self.ended = ended or (lambda folder: None)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.host = HostMemory(self.folder, self.settings.spill_to == "disk")
        try:
            with self.admission, self.view:
                self.train(self.admission.first(self.host))
            if self.loads:
                write_loads(self.folder / COSTS, [self.loads[model] for model in sorted(self.loads)])
            self.view.write_page()
            if self.context.should_stop():
                raise KeyboardInterrupt
        finally:
            self.host.close()

    # ---- the schedule

    def train(self, ready: Sequence[HostModel]) -> None:
        """Deal units out and take what comes of them, until none is left, or until the steps under way when stopped."""
        self.pool = WorkerPool(
            [replace(each, scratch_folders=tuple(self.host.folders)) for each in self.workers],
            self.folder / WORKER_LOGS,
            self.settings.stall_seconds,
            self.max_restarts,
        )
        try:
            with (
                handle_signals(self.context),
                ThreadPoolExecutor(1) as self.saver,
                TimelineWriter(self.folder) as self.timeline,
            ):
                for host_model in ready:
                    self.enter(host_model)
                while self.is_left():
                    self.run_once()
            for model in sorted(self.host_models):  # stopped
                self.host_models[model].keep()
                self.loads[model] = self.host_models[model].as_load(self.scheduler.unit_seconds(model))
        finally:
            self.pool.stop()

    def is_left(self) -> bool:
        """Whether there is anything to do; what can be done now has then been dealt out."""
        self.scheduler.is_draining = self.context.should_stop()
        if not self.scheduler.is_draining:
            self.join()
        for device, unit in self.scheduler.assign():
            self.pool[device].send(self.host_models[unit.model_id].make_request(unit))
        return self.scheduler.has_work() or (self.admission.is_left() and not self.scheduler.is_draining)

    def run_once(self) -> None:
        """Take what has come since the last time, or wait for it."""
        self.prefetch()
        for worker in self.pool.ready(_SAVED if self.saving else _POLL):
            self.receive(worker)
        self.let_saved_go()
        for worker, reason in self.pool.stalled():
            self.replace_worker(worker, reason)
        self.view.look(self.host_models.values(), self.scheduler.remaining_seconds() / len(self.workers))

    def prefetch(self) -> None:
        """Let workers that have but one unit copy the shard that its model needs next."""
        for worker in self.pool if self.settings.double_buffer else ():
            unit = self.scheduler.next_to_prefetch(worker.number)
            if unit is not None and unit != worker.awaited:
                worker.awaited = unit
                version = self.host_models[unit.model_id].versions[unit.shard]
                worker.send(Prefetch(unit.model_id, unit.shard, version, unit.is_backward))

    def receive(self, worker: WorkerProcess) -> None:
        answer = worker.receive()
        if answer is None:
            self.replace_worker(worker, "has died")
            return
        model = answer.unit.model_id
        if model in self.to_reload:
            self.reload(model)
        elif isinstance(answer, UnitFailure):
            self.fail(model, answer.error)
        else:
            self.timeline.add(worker.number, self.host_models[model].name, answer)
            self.record(worker, answer)

    def record(self, worker: WorkerProcess, result: UnitResult) -> None:
        """Take note of what came of a unit."""
        unit, host_model = result.unit, self.host_models[result.unit.model_id]
        begin, end = result.compute_span
        self.scheduler.complete(worker.number, unit, None if result.is_cold else end - begin)
        try:
            save = host_model.record(result)
        except ValueError as error:
            self.fail(unit.model_id, error)
            return
        self.scheduler.set_num_steps(unit.model_id, host_model.steps_left.stop)
        if save:  # beside the others' units: a checkpoint takes as long as many of them
            self.scheduler.suspend(unit.model_id)
            self.saving[unit.model_id] = self.saver.submit(host_model.save)

    def let_saved_go(self) -> None:
        """Models whose checkpoints are written go on, or leave."""
        for model in [model for model, saved in self.saving.items() if saved.done()]:
            error = self.saving.pop(model).exception()
            if isinstance(error, Exception):
                self.fail(model, error)
            elif self.host_models[model].next_step is None:
                self.leave(model)
            else:
                self.scheduler.resume(model)

    # ---- who joins and who leaves

    def join(self) -> None:
        for candidate, found in self.admission.later(self.host):
            if isinstance(found, HostModel):
                self.enter(found)
            else:
                self.report(candidate.folder, candidate.name, found)
                self.on_leave(candidate.folder)

    def enter(self, host_model: HostModel) -> None:
        """A model takes part from now on, unless nothing is left of its training."""
        self.view.joined(host_model)
        if not host_model.is_prepared:
            self.view.done(host_model.folder)
            self.on_leave(host_model.folder)
            return
        left = host_model.steps_left
        seconds = [cost.seconds for cost in host_model.costs]
        model = self.scheduler.add(len(host_model.spec.shards), left.stop, seconds, left.start)
        self.host_models[model] = host_model
        self.pool.add_model(model, host_model.spec)

    def leave(self, model: int) -> None:
        """The model is trained, pauses, or has failed: what it took is free."""
        host_model = self.host_models.pop(model)
        self.loads[model] = host_model.as_load(self.scheduler.unit_seconds(model))
        self.scheduler.remove(model)
        self.to_reload.discard(model)
        self.pool.remove_model(model)
        self.host.delete_files(host_model.files())
        del host_model.training  # with its modules, which refer to themselves
        gc.collect()
        self.view.done(host_model.folder)
        self.on_leave(host_model.folder)

    def on_leave(self, folder: Path) -> None:
        self.admission.gone(folder)
        self.ended(folder)

    # ---- what goes wrong

    def fail(self, model: int, error: Exception) -> None:
        """The model is dropped and named, the others go on."""
        host_model = self.host_models[model]
        self.report(host_model.folder, host_model.name, error)
        self.leave(model)

    def report(self, folder: Path, name: str, error: Exception) -> None:
        self.failures[folder] = str(error)
        write_report(folder, error)
        self.view.failed(name, error)

    def replace_worker(self, worker: WorkerProcess, reason: str) -> None:
        """A worker is lost: its models go back to their checkpoints, and what they had to do is anyone's."""
        self.pool.replace(worker, reason, {model: host_model.spec for model, host_model in self.host_models.items()})
        lost = self.scheduler.lose_device(worker.number)
        self.view.print(f"worker {worker.number} {reason}; {len(lost)} models go back to their checkpoints")
        for model in lost:
            if any(unit.model_id == model for units in self.scheduler.queued for unit in units):
                self.to_reload.add(model)  # once the unit that another worker has is done
            else:
                self.reload(model)

    def reload(self, model: int) -> None:
        self.to_reload.discard(model)
        host_model = self.host_models[model]
        host_model.reload()
        self.pool.add_model(model, host_model.spec)
        self.scheduler.restart(model, host_model.steps_left.start)
