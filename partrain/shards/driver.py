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
from partrain.shards.crew import Crew, worker_settings
from partrain.shards.host import HostMemory
from partrain.shards.joining import Joining
from partrain.shards.member import Member
from partrain.shards.messages import Failure, Outcome, Prefetch
from partrain.shards.policies import POLICIES, Policy
from partrain.shards.preparation import Preparation
from partrain.shards.process import WorkerProcess
from partrain.shards.scheduler import Scheduler
from partrain.shards.settings import ShardSettings
from partrain.shards.simulator import Load, write_loads
from partrain.shards.timeline import Timeline
from partrain.shards.view import View
from partrain.storage.run_folder import COSTS, WORKER_LOGS
from partrain.training.context import TrainingContext, handle_signals

_POLL, _SAVED = 0.5, 0.01  # seconds between looks at workers that are silent, and at checkpoints being written


class ShardedTraining:
    """Models trained at once on `devices`, a worker on each; models join and leave.

    `devices`, `folder`, `settings`, `policy`, `seed`, `show`: as `train_sharded` has them. `threads`: of a worker; None: an
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
        show: bool = True,
    ) -> None:
        self.settings = settings = settings or ShardSettings()
        self.max_restarts = max_restarts
        self.folder = Path(folder).absolute()
        self.workers = worker_settings(each_placed(devices), settings, threads)
        self.view = View(self.folder, show)
        self.context = TrainingContext(self.folder)
        self.failures: dict[Path, str] = {}
        self.joining = Joining(self.folder, self.context, Preparation(settings, self.workers[0]))
        policy = policy or POLICIES[settings.policy](seed)
        self.scheduler = Scheduler(len(devices), policy, settings.activations == "keep", settings.double_buffer)
        self.members: dict[int, Member] = {}
        self.loads: dict[int, Load] = {}  # of those that have left
        self.to_reload: set[int] = set()
        self.saving: dict[int, Future[None]] = {}

    def add(self, task: str | Path, pause: int | None = None, name: str | None = None) -> None:
        """Let the model of `task` (its folder) join: before `run`, or from any thread while it is under way.

        Its checkpoint, if it has one, is where it begins. `pause`: the epoch after which it is to. `name`: for people.

        Raises:
            ValueError: the folder is no task's, or is here already.
        """
        self.joining.add(task, pause, name)
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
            with self.joining, self.view:
                self.train(self.joining.first(self.host))
            if self.loads:
                write_loads(self.folder / COSTS, [self.loads[model] for model in sorted(self.loads)])
            self.view.write_page()
            if self.context.should_stop():
                raise KeyboardInterrupt
        finally:
            self.host.close()

    # ---- the schedule

    def train(self, ready: Sequence[Member]) -> None:
        """Deal units out and take what comes of them, until none is left, or until the steps under way when stopped."""
        self.crew = Crew(
            [replace(each, scratch=tuple(self.host.folders)) for each in self.workers],
            self.folder / WORKER_LOGS,
            self.settings.stall_seconds,
            self.max_restarts,
        )
        try:
            with (
                handle_signals(self.context),
                ThreadPoolExecutor(1) as self.saver,
                Timeline(self.folder) as self.timeline,
            ):
                for member in ready:
                    self.enter(member)
                while self.is_left():
                    self.turn()
            for model in sorted(self.members):  # stopped
                self.members[model].keep()
                self.loads[model] = self.members[model].as_load(self.scheduler.seconds_of(model))
        finally:
            self.crew.stop()

    def is_left(self) -> bool:
        """Whether there is anything to do; what can be done now has then been dealt out."""
        self.scheduler.closing = self.context.should_stop()
        if not self.scheduler.closing:
            self.join()
        for device, unit in self.scheduler.deal():
            self.crew[device].send(self.members[unit.model].visit(unit))
        return self.scheduler.left() or (self.joining.is_left() and not self.scheduler.closing)

    def turn(self) -> None:
        """Take what has come since the last time, or wait for it."""
        self.prefetch()
        for worker in self.crew.waiting(_SAVED if self.saving else _POLL):
            self.hear(worker)
        self.let_saved_go()
        for worker, reason in self.crew.stalled():
            self.renew(worker, reason)
        self.view.look(self.members.values(), self.scheduler.seconds_left() / len(self.workers))

    def prefetch(self) -> None:
        """Let workers that have but one unit copy the shard that its model needs next."""
        for worker in self.crew if self.settings.double_buffer else ():
            unit = self.scheduler.awaited(worker.number)
            if unit is not None and unit != worker.awaited:
                worker.awaited = unit
                version = self.members[unit.model].versions[unit.shard]
                worker.send(Prefetch(unit.model, unit.shard, version, unit.backward))

    def hear(self, worker: WorkerProcess) -> None:
        answer = worker.receive()
        if answer is None:
            self.renew(worker, "has died")
            return
        model = answer.unit.model
        if model in self.to_reload:
            self.reload(model)
        elif isinstance(answer, Failure):
            self.fail(model, answer.error)
        else:
            self.timeline.add(worker.number, self.members[model].name, answer)
            self.done(worker, answer)

    def done(self, worker: WorkerProcess, outcome: Outcome) -> None:
        """Take note of what came of a unit."""
        unit, member = outcome.unit, self.members[outcome.unit.model]
        begin, end = outcome.computed
        self.scheduler.finish(worker.number, unit, None if outcome.cold else end - begin)
        try:
            save = member.done(outcome)
        except ValueError as error:
            self.fail(unit.model, error)
            return
        self.scheduler.set_end(unit.model, member.steps_left.stop)
        if save:  # beside the others' units: a checkpoint takes as long as many of them
            self.scheduler.hold(unit.model)
            self.saving[unit.model] = self.saver.submit(member.save)

    def let_saved_go(self) -> None:
        """Models whose checkpoints are written go on, or leave."""
        for model in [model for model, saved in self.saving.items() if saved.done()]:
            error = self.saving.pop(model).exception()
            if isinstance(error, Exception):
                self.fail(model, error)
            elif self.members[model].next is None:
                self.leave(model)
            else:
                self.scheduler.let_go(model)

    # ---- who joins and who leaves

    def join(self) -> None:
        for candidate, found in self.joining.later(self.host):
            if isinstance(found, Member):
                self.enter(found)
            else:
                self.report(candidate.folder, candidate.name, found)
                self.gone(candidate.folder)

    def enter(self, member: Member) -> None:
        """The member takes part from now on, unless nothing is left of its training."""
        self.view.joined(member)
        if member.spec is None:
            self.view.done(member.folder)
            self.gone(member.folder)
            return
        left = member.steps_left
        seconds = [cost.seconds for cost in member.costs]
        model = self.scheduler.add(len(member.spec.shards), left.stop, seconds, left.start)
        self.members[model] = member
        self.crew.welcome(model, member.spec)

    def leave(self, model: int) -> None:
        """The model is trained, pauses, or has failed: what it took is free."""
        member = self.members.pop(model)
        self.loads[model] = member.as_load(self.scheduler.seconds_of(model))
        self.scheduler.drop(model)
        self.to_reload.discard(model)
        self.crew.forget(model)
        self.host.free(member.files())
        del member.training  # with its modules, which refer to themselves
        gc.collect()
        self.view.done(member.folder)
        self.gone(member.folder)

    def gone(self, folder: Path) -> None:
        self.joining.gone(folder)
        self.ended(folder)

    # ---- what goes wrong

    def fail(self, model: int, error: Exception) -> None:
        """The model is dropped and named, the others go on."""
        member = self.members[model]
        self.report(member.folder, member.name, error)
        self.leave(model)

    def report(self, folder: Path, name: str, error: Exception) -> None:
        self.failures[folder] = str(error)
        write_report(folder, error)
        self.view.failed(name, error)

    def renew(self, worker: WorkerProcess, reason: str) -> None:
        """A worker is lost: its models go back to their checkpoints, and what they had to do is anyone's."""
        self.crew.replace(worker, reason, {model: member.known_spec for model, member in self.members.items()})
        lost = self.scheduler.lose(worker.number)
        self.view.print(f"worker {worker.number} {reason}; {len(lost)} models go back to their checkpoints")
        for model in lost:
            if any(unit.model == model for units in self.scheduler.queued for unit in units):
                self.to_reload.add(model)  # once the unit that another worker has is done
            else:
                self.reload(model)

    def reload(self, model: int) -> None:
        self.to_reload.discard(model)
        member = self.members[model]
        member.reload()
        self.crew.welcome(model, member.known_spec)
        self.scheduler.restart(model, member.steps_left.start)
