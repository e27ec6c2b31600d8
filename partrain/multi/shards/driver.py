"""Shard parallelism from tasks to trained models (arXiv 2110.08633): cut, place, schedule, supervise.

This process holds every model in host memory, and the schedule; a worker per device computes units. Only shards, what
crosses between them and a few numbers travel.
"""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType

import torch

from partrain.control import Control
from partrain.launch.placement import num_cores
from partrain.multi.capacity import free_bytes
from partrain.multi.shards.host import HostMemory
from partrain.multi.shards.member import Member
from partrain.multi.shards.messages import Failure, Forget, Outcome, Prefetch, WorkerSettings
from partrain.multi.shards.policies import Policy
from partrain.multi.shards.preparation import Preparation
from partrain.multi.shards.process import WorkerProcess
from partrain.multi.shards.scheduler import Cost, Scheduler
from partrain.multi.shards.settings import ShardSettings
from partrain.multi.shards.simulator import Load, write_loads
from partrain.multi.shards.timeline import Timeline
from partrain.multi.shards.view import View
from partrain.task import SegmentTask
from partrain.worker import ERROR_FILE, write_report

COSTS = "costs.json"
_POLL, _SAVED = 0.5, 0.01  # seconds between looks at workers that are silent, and at checkpoints being written


class ShardedTraining:
    """What `train_sharded` does, under way. `tasks` by their folders. `failures`: why those failed that did."""

    def __init__(
        self,
        tasks: Mapping[Path, SegmentTask],
        devices: Sequence[str],
        folder: Path,
        settings: ShardSettings,
        policy: Policy,
        show: bool,
    ) -> None:
        self.tasks, self.folder, self.settings, self.devices = tasks, folder, settings, devices
        self.view = View(folder, show)
        self.control = Control(folder)
        self.failures: dict[Path, str] = {}
        device = torch.device(devices[0])
        sharing = len(devices) if device.type == "cpu" else 1  # cores and memory
        self.threads = max(1, num_cores() // sharing)
        budget = settings.budget_gib
        self.budget = free_bytes(device) // sharing if budget is None else int(budget * 2**30)
        self.preparation = Preparation(settings, device, self.budget)
        self.scheduler = Scheduler(len(devices), policy, settings.activations == "keep", settings.double_buffer)
        self.members: list[Member] = []
        self.costs: list[list[Cost]] = []  # of units, model by model
        self.workers: list[WorkerProcess] = []
        self.to_reload: set[int] = set()
        self.saving: dict[int, Future[None]] = {}

    # ---- from beginning to end

    def run(self, pauses: Mapping[Path, int | None]) -> None:
        """Train all; after Ctrl-C, once the steps under way are done and every model has its checkpoint, it is raised.

        `pauses`: after which epoch each is to pause.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for task in self.tasks:
            (task / ERROR_FILE).unlink(missing_ok=True)
        needed = sum(map(self.preparation.host_bytes, self.tasks.values()))
        host = HostMemory(self.folder, needed, self.settings.spill_to == "disk")
        try:
            self.prepare(host, pauses)
            self.start_workers()
            with _stopping(self.control), ThreadPoolExecutor(1) as self.saver, Timeline(self.folder) as self.timeline:
                self.train()
            write_loads(self.folder / COSTS, self.loads())
            self.view.write_page(self.members)
            if self.control.stop_asked():
                for member in self.members:
                    if member.next is not None and member.folder not in self.failures:
                        member.keep()
                raise KeyboardInterrupt
        finally:
            for worker in self.workers:
                worker.stop()
            host.close()

    def prepare(self, host: HostMemory, pauses: Mapping[Path, int | None]) -> None:
        """Cut the models, and let the scheduler know of them."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for number, task in enumerate(self.tasks):
                member = Member(number, task, self.control, pauses.get(task))
                costs: tuple[Cost, ...] = (Cost(seconds=0.0),)
                if member.next is None:
                    member.save()
                else:
                    costs = self.preparation.prepare(member, host).costs
                self.members.append(member)
                self.costs.append(list(costs))
                seconds, left = [cost.seconds for cost in costs], member.steps_left
                self.scheduler.add((len(costs) + 1) // 2, left.stop, seconds, left.start)
                self.view.cut(member, seconds)
        finally:
            torch.set_num_threads(before)

    def start_workers(self) -> None:
        for number, device in enumerate(self.devices):
            settings = WorkerSettings(
                device=device,
                budget=self.budget,
                threads=self.threads,
                separate=self.settings.separate or torch.device(device).type != "cpu",
                double_buffer=self.settings.double_buffer,
            )
            worker = WorkerProcess(number, settings, self.folder / "workers" / f"{number}.txt")
            self.workers.append(worker)
            self.introduce(worker)

    def introduce(self, worker: WorkerProcess) -> None:
        """Tell a worker of all models that are left."""
        for member in self.members:
            if member.next is not None and member.folder not in self.failures:
                assert member.spec is not None
                worker.send(member.spec)

    def train(self) -> None:
        """Deal units out and take what comes of them, until none is left."""
        while True:
            self.scheduler.closing = self.control.stop_asked()
            for device, unit in self.scheduler.deal():
                self.workers[device].send(self.members[unit.model].visit(unit))
            self.prefetch()
            if not self.scheduler.left():
                return
            connections = {worker.connection: worker for worker in self.workers}
            for connection in wait(list(connections), _SAVED if self.saving else _POLL):
                self.hear(connections[connection])  # type: ignore[index]
            self.let_saved_go()
            for worker in self.workers:
                if worker.is_stalled(self.settings.stall_seconds):
                    self.renew(worker, f"has been at one unit for {self.settings.stall_seconds:g} s")
            self.view.tell(self.members, self.scheduler.seconds_left() / len(self.devices))

    def prefetch(self) -> None:
        """Let workers that have but one unit copy the shard that its model needs next."""
        for worker in self.workers if self.settings.double_buffer else ():
            unit = self.scheduler.awaited(worker.number)
            if unit is not None and unit != worker.awaited:
                worker.awaited = unit
                version = self.members[unit.model].versions[unit.shard]
                worker.send(Prefetch(unit.model, unit.shard, version, unit.backward))

    def hear(self, worker: WorkerProcess) -> None:
        answer = worker.receive()
        if answer is None:
            self.renew(worker, "has died")
        elif isinstance(answer, Failure):
            self.fail(answer.unit.model, answer.error)
        elif answer.unit.model in self.to_reload:
            self.reload(answer.unit.model)
        else:
            self.done(worker, answer)
            self.timeline.add(worker.number, answer)

    def done(self, worker: WorkerProcess, outcome: Outcome) -> None:
        """Take note of what came of a unit."""
        unit, member = outcome.unit, self.members[outcome.unit.model]
        begin, end = outcome.computed
        self.scheduler.finish(worker.number, unit, None if outcome.cold else end - begin)
        self.note_copies(outcome)
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
        """Models whose checkpoints are written go on."""
        for model in [model for model, saved in self.saving.items() if saved.done()]:
            error = self.saving.pop(model).exception()
            if isinstance(error, Exception):
                self.fail(model, error)
                continue
            self.scheduler.let_go(model)
            if self.members[model].next is None:
                self.forget(model)

    def note_copies(self, outcome: Outcome) -> None:
        """Keep the latest seconds of copying that there was any of."""
        costs, position = self.costs[outcome.unit.model], outcome.unit.position
        (load_begin, load_end), (store_begin, store_end) = outcome.loaded, outcome.stored
        load = load_end - load_begin if outcome.bytes_in else costs[position].load
        costs[position] = replace(costs[position], load=load, store=store_end - store_begin)

    def loads(self) -> list[Load]:
        """Costs as measured, for the simulator: of the steps that this call did."""
        return [
            Load(
                units=tuple(
                    replace(cost, seconds=float(seconds))
                    for cost, seconds in zip(costs, self.scheduler.seconds_of(member.number), strict=True)
                ),
                steps=member.training.progress.step - member.first,
            )
            for member, costs in zip(self.members, self.costs, strict=True)
        ]

    # ---- what goes wrong

    def fail(self, model: int, error: Exception) -> None:
        """The model is dropped and named, the others go on."""
        member = self.members[model]
        self.failures[member.folder] = str(error)
        write_report(member.folder, error)
        self.view.say(f"{member.folder.name} FAILED: {str(error).splitlines()[0]}; the others go on")
        self.scheduler.drop(model)
        self.to_reload.discard(model)
        self.forget(model)

    def forget(self, model: int) -> None:
        for worker in self.workers:
            worker.send(Forget(model))

    def renew(self, worker: WorkerProcess, reason: str) -> None:
        """A worker is lost: its models go back to their checkpoints, and what they had to do is anyone's.

        Raises:
            RuntimeError: it has been lost too often.
        """
        worker.kill()
        worker.connection.close()
        worker.restarts += 1
        if worker.restarts > self.settings.max_restarts:
            raise RuntimeError(f"worker {worker.number} {reason}, for the {worker.restarts}th time; see {worker.log}")
        lost = self.scheduler.lose(worker.number)
        self.view.say(f"worker {worker.number} {reason}; {len(lost)} models go back to their checkpoints")
        worker.start()
        self.introduce(worker)
        for model in lost:
            if any(unit.model == model for units in self.scheduler.queued for unit in units):
                self.to_reload.add(model)  # once the unit that another worker has is done
            else:
                self.reload(model)

    def reload(self, model: int) -> None:
        self.to_reload.discard(model)
        member = self.members[model]
        member.reload()
        self.forget(model)
        for worker in self.workers:
            assert member.spec is not None
            worker.send(member.spec)
        self.scheduler.restart(model, member.steps_left.start)


@contextmanager
def _stopping(control: Control) -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM ask to stop; a second one stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if control.stop_asked():
            raise KeyboardInterrupt
        control.ask_to_stop()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
