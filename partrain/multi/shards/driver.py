"""Shard parallelism from tasks to trained models (arXiv 2110.08633): cut, place, schedule, supervise.

This process holds every model in host memory, and the schedule; a worker per device computes units. Only shards, what
crosses between them and a few numbers travel.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType

import torch

from partrain.console import console
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
from partrain.multi.shards.timeline import TIMELINE, Timeline
from partrain.multi.task import check_members
from partrain.report.quantities import duration
from partrain.worker import ERROR_FILE, write_report

COSTS = "costs.json"
_POLL, _SAVED = 0.5, 0.01  # seconds between looks at workers that are silent, and at checkpoints being written
_TOLD_EVERY = 10.0  # seconds


class ShardedTraining:
    """What `train_sharded` does, under way. `tasks`: after which epoch each pauses. `failures`: why some failed."""

    def __init__(
        self,
        tasks: Mapping[Path, int | None],
        devices: Sequence[str],
        folder: Path,
        settings: ShardSettings,
        policy: Policy,
        show: bool,
    ) -> None:
        self.folder, self.settings, self.devices, self.show = folder, settings, devices, show
        self.control = Control(folder)
        self.failures: dict[Path, str] = {}
        self.threads = max(1, num_cores() // len(devices)) if devices[0].startswith("cpu") else num_cores()
        budget = settings.budget_gib
        free = free_bytes(torch.device(devices[0])) // (len(devices) if devices[0] == "cpu" else 1)
        self.budget = free if budget is None else int(budget * 2**30)
        self.preparation = Preparation(settings, torch.device(devices[0]), self.budget)
        self.scheduler = Scheduler(len(devices), policy, settings.activations == "keep", settings.double_buffer)
        self.tasks = tasks
        self.members: list[Member] = []
        self.costs: list[list[Cost]] = []
        self.workers: list[WorkerProcess] = []
        self.to_reload: set[int] = set()
        self.saving: dict[int, Future[None]] = {}

    # ---- from beginning to end

    def run(self) -> None:
        """Train all; after Ctrl-C, once the steps under way are done and every model has its checkpoint, it is raised."""
        for task in self.tasks:
            (task / ERROR_FILE).unlink(missing_ok=True)
        needed = sum(self.preparation.host_bytes(task) for task in check_members(list(self.tasks)))
        host = HostMemory(self.folder, needed, self.settings.spill_to == "disk")
        try:
            self.prepare(host)
            self.start_workers()
            with _stopping(self.control), ThreadPoolExecutor(1) as self.saver, Timeline(self.folder) as self.timeline:
                self.train()
            write_loads(self.folder / COSTS, self.loads())
            self.write_page()
            if self.control.stop_asked():
                for member in self.members:
                    if member.next is not None and member.folder not in self.failures:
                        member.keep()
                raise KeyboardInterrupt
        finally:
            for worker in self.workers:
                worker.stop()
            host.close()

    def prepare(self, host: HostMemory) -> None:
        """Cut the models, and let the scheduler know of them."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for number, (task, pause) in enumerate(self.tasks.items()):
                member = Member(number, task, self.control, pause)
                costs: tuple[Cost, ...] = (Cost(seconds=0.0),)
                if member.next is None:
                    member.save()
                else:
                    costs = self.preparation.prepare(member, host).costs
                self.members.append(member)
                self.costs.append(list(costs))
                seconds, left = [cost.seconds for cost in costs], member.steps_left
                self.scheduler.add((len(costs) + 1) // 2, left.stop, seconds, left.start)
                self.told(member, seconds)
        finally:
            torch.set_num_threads(before)

    def start_workers(self) -> None:
        for number, device in enumerate(self.devices):
            settings = WorkerSettings(
                device=device,
                budget=self.budget,
                threads=self.threads,
                separate=self.settings.separate or device != "cpu",
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
        told = time.monotonic()
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
                    self.replace(worker, f"has been at one unit for {self.settings.stall_seconds:g} s")
            if self.show and time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                self.tell()

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
            self.replace(worker, "has died")
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
        self.note_costs(outcome)
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

    def note_costs(self, outcome: Outcome) -> None:
        """Keep the latest transfers that were any, and running means of seconds."""
        unit = outcome.unit
        before = self.costs[unit.model][unit.position]
        self.costs[unit.model][unit.position] = Cost(
            seconds=self.scheduler.seconds_of(unit.model)[unit.position],
            load=outcome.loaded[1] - outcome.loaded[0] if outcome.bytes_in else before.load,
            store=outcome.stored[1] - outcome.stored[0],
        )

    def loads(self) -> list[Load]:
        """Costs as measured, for the simulator: of the steps that this call did."""
        return [
            Load(units=tuple(costs), steps=member.training.progress.step - member.first)
            for member, costs in zip(self.members, self.costs, strict=True)
        ]

    # ---- what goes wrong

    def fail(self, model: int, error: Exception) -> None:
        """The model is dropped and named, the others go on."""
        member = self.members[model]
        self.failures[member.folder] = str(error)
        write_report(member.folder, error)
        self.say(f"{member.folder.name} FAILED: {str(error).splitlines()[0]}; the others go on")
        self.scheduler.drop(model)
        self.to_reload.discard(model)
        self.forget(model)

    def forget(self, model: int) -> None:
        for worker in self.workers:
            worker.send(Forget(model))

    def replace(self, worker: WorkerProcess, reason: str) -> None:
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
        self.say(f"worker {worker.number} {reason}; {len(lost)} models go back to their checkpoints")
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

    # ---- what is told

    def write_page(self) -> None:
        """Which device computed what when, as a page."""
        from partrain.report.shards_page import write_shards_page  # plotly, which training need not wait for

        root = Path(os.path.commonpath([member.folder.parent for member in self.members]))
        names = [str(member.folder.relative_to(root)) for member in self.members]
        page = write_shards_page(self.folder, self.folder / TIMELINE, names)
        if self.show:
            console.print(f"Page: {page}", soft_wrap=True, markup=False)

    def told(self, member: Member, seconds: Sequence[float]) -> None:
        """How a model is cut."""
        if self.show and member.spec is not None:
            count = len(member.spec.shards)
            console.print(
                f"{member.folder}: {count} shard{'s' * (count != 1)}, {1000 * sum(seconds):.1f} ms a step in a trial",
                soft_wrap=True,
                markup=False,
            )

    def tell(self) -> None:
        """How far it is."""
        done = sum(member.training.progress.step for member in self.members)
        steps = sum(member.steps_left.stop for member in self.members)
        left = self.scheduler.seconds_left() / len(self.devices)
        console.print(f"{done:,} of {steps:,} steps of all models, about {duration(left)} left", markup=False)

    def say(self, text: str) -> None:
        """What has gone wrong is told in any case."""
        console.print(text, soft_wrap=True, markup=False)


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
