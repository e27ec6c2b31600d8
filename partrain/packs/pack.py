"""A pack: many trainings in one process, those of one shape as stacks, each of them a step at a time.

Trainings that end leave the pack and those that wait take their place; one that fails is dropped and named, and the others
go on. One checkpoint holds all that are under way as they were after the same steps, so that a pack that is killed at any
moment and made again ends with the same bits.
"""

import os
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from partrain.launch.worker import write_report
from partrain.packs.stack import Stack, shape_of
from partrain.packs.task import PackMember, PackTask, check_members
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, ERROR_FILE
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining

_SAVED_EVERY = 60.0  # seconds


class Member:
    """A training in a pack, the step it is to do next (None at its end or pause), and what it can be stacked by."""

    def __init__(self, training: SegmentTraining, name: str, stack_size: int) -> None:
        self.training, self.name, self.stack_size = training, name, stack_size
        self.shape: Hashable = shape_of(training) if stack_size > 1 else name
        self._steps: Iterator[Step] = training.steps()
        self.advance()

    def advance(self) -> None:
        self.next: Step | None = next(self._steps, None)


class _SharedMemory(PeakMemory):
    """The process's memory, an equal part for each of as many trainings as were under way at once."""

    def __init__(self, whole: PeakMemory) -> None:
        self._whole = whole
        self.parts = 1

    def bytes(self, device: torch.device) -> int:
        return self._whole.bytes(device) // self.parts


class Pack:
    """What `task` says, in `folder`, or what is left of it.

    `members` are under way, `waiting` are places in the task's lists of those to come; `failures` say by task folder why
    a training was dropped, and its error.json says it too.
    """

    def __init__(
        self, folder: Path, task: PackTask, context: TrainingContext | None = None, memory: PeakMemory | None = None
    ) -> None:
        self.folder, self.task = folder, task
        self.context = context or TrainingContext(folder)
        self.memory = _SharedMemory(memory or PeakMemory())
        self.capacity = task.capacity
        self.members: list[Member] = []
        self.stacks: list[tuple[Stack, list[Member]]] = []
        self.waiting: list[int] = list(range(len(task.members)))
        self.changed = True
        self.failures: dict[str, str] = {}
        self.restore()

    # ---- from beginning to end

    def run(self) -> bool:
        """Train all, unless `context` asks to stop; True once none is left."""
        saved = time.monotonic()
        while not self.context.should_stop():
            if self.changed:
                self.admit()
                self.restack()
                self.save()
                self.changed = False
            if not self.members:
                break
            for stack, members in list(self.stacks):
                self.step(stack, members)
            self.context.poll()
            if time.monotonic() - saved > _SAVED_EVERY:
                self.save()
                saved = time.monotonic()
        if self.members:
            self.save()
        return not (self.members or self.waiting)

    def admit(self) -> None:
        """Let trainings that wait begin, as many as there is room for."""
        while self.waiting and self.capacity - len(self.members) >= min(
            self.task.members[self.waiting[0]].required_room, self.capacity
        ):
            self.begin(self.waiting.pop(0))

    def has_room_for(self, entry: PackMember) -> bool:
        """Return whether a waiting member may start. One that requires more room than the pack has needs all of it."""
        return self.capacity - len(self.members) >= min(entry.required_room, self.capacity)

    def begin(self, place: int) -> None:
        """Take up number `place` of the task's members where its own checkpoint is, if it is not done."""
        name = self.task.members[place].folder
        folder = (self.folder / name).resolve()
        if (folder / ERROR_FILE).exists():
            self.failures[name] = checkpoint.read_json(folder / ERROR_FILE)["message"]
            return
        try:
            training = SegmentTraining(folder, self.context, self.memory)
        except (ValueError, OSError) as error:
            self.fail(name, folder, error)
            return
        training.pause_after = self.task.members[place].pause_after
        member = Member(training, name, self.task.members[place].stack_size)
        if member.next is None:
            self.conclude(member)
        else:
            self.members.append(member)

    def step(self, stack: Stack, members: Sequence[Member]) -> None:
        """One step of `members`, then what each has to note, and who leaves."""
        steps = [member.next for member in members if member.next is not None]
        try:
            stack.step(steps)
        except torch.OutOfMemoryError:
            self.make_room(stack, members)
            return
        for member, step in zip(members, steps, strict=True):
            if not step.is_logged:
                member.advance()
                continue
            try:
                member.training.log_step(step)
            except ValueError as error:
                self.drop(member)
                self.fail(member.name, member.training.folder, error)
                continue
            member.advance()
            if member.next is None:
                self.conclude(member)
                self.drop(member)

    def conclude(self, member: Member) -> None:
        """At its end or pause: what a training leaves is what it would have left alone."""
        training = member.training
        if not training.progress.finished:
            training.save_checkpoint()
        training.finalize()

    def drop(self, member: Member) -> None:
        self.members.remove(member)
        self.changed = True

    def join(self, folder: Path, pause: int | None = None) -> None:
        """Let the training in `folder` begin as soon as there is room, stacked with those of its shape."""
        check_members([*self.task.member_folders(self.folder), folder.resolve()])
        self.task = replace(
            self.task,
            members=[
                *self.task.members,
                PackMember(
                    folder=os.path.relpath(folder, self.folder),
                    pause_after=pause,
                    stack_size=max(member.stack_size for member in self.task.members),
                ),
            ],
        )
        self.task.write(self.folder)
        self.waiting.append(len(self.task.members) - 1)
        self.capacity += 1
        self.changed = True

    def fail(self, name: str, folder: Path, error: Exception) -> None:
        """Leave the reason in the training's folder."""
        self.failures[name] = str(error)
        write_report(folder, error)

    # ---- stacks

    def restack(self) -> None:
        """Stack the members anew: by shape, in their order; a stack that stays as it is is left alone."""
        self.hand_on()
        shapes: dict[Hashable, list[Member]] = defaultdict(list)
        for member in self.members:
            shapes[member.shape].append(member)
        before = {tuple(map(id, members)): (stack, members) for stack, members in self.stacks}
        wanted = [
            same[first : first + same[0].stack_size]
            for same in shapes.values()
            for first in range(0, len(same), same[0].stack_size)
        ]
        self.stacks = []
        try:
            for group in wanted:
                found = before.get(tuple(map(id, group)))
                self.stacks.append(found or (Stack([member.training for member in group]), group))
        except torch.OutOfMemoryError:
            self.put_back(self.members[len(self.members) // 2 :])
            self.restack()
        self.memory.parts = max(self.memory.parts, len(self.members))
        for member in self.members:
            member.training.process_share = 1 / len(self.members)

    def hand_on(self) -> None:
        for stack, _ in self.stacks:
            stack.hand_on_losses()

    def make_room(self, stack: Stack, members: Sequence[Member]) -> None:
        """The device's memory is full: half of `members` wait on disk until others have ended. No step is lost."""
        stack.hand_on_losses()
        self.put_back(members[(len(members) + 1) // 2 :] or members)

    def put_back(self, members: Sequence[Member]) -> None:
        """Let `members` wait, with what they have done in their checkpoints, and have no more under way than the rest."""
        if len(members) == len(self.members):
            raise torch.OutOfMemoryError(
                f"{members[0].training.folder}: one training alone does not fit into the device's memory"
            )
        for member in members:
            member.training.save_checkpoint()
            self.drop(member)
        self.waiting = sorted(
            [self.task.members.index(self.task.member(member.name)) for member in members] + self.waiting
        )
        self.capacity = len(self.members)

    # ---- checkpoint

    def save(self) -> None:
        """Write all that is under way, in one file, as of now."""
        self.hand_on()
        tensors = {
            f"{place}.{name}": tensor
            for place, member in enumerate(self.members)
            for name, tensor in member.training.state().items()
        }
        held: dict[str, Any] = {
            "members": [
                {"name": member.name, "progress": member.training.progress.to_json()} for member in self.members
            ],
            "capacity": self.capacity,
        }
        checkpoint.save(self.folder / CHECKPOINT, tensors, held)
        for member in self.members:
            member.training.progress.write_metrics(member.training.folder)
            member.training.usage.skip_time()

    def restore(self) -> None:
        """Take up those that were under way, where they were then; all others wait, as their own checkpoints have them."""
        try:
            tensors, held = checkpoint.load(self.folder / CHECKPOINT)
        except FileNotFoundError:
            return
        self.capacity = held["capacity"]
        for place, each in enumerate(held["members"]):
            number = self.task.members.index(self.task.member(each["name"]))
            prefix = f"{place}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            training = SegmentTraining((self.folder / each["name"]).resolve(), self.context, self.memory, resume=False)
            training.load_state({n: t.to(training.device) for n, t in own.items()}, each["progress"])
            training.pause_after = self.task.members[number].pause_after
            self.waiting.remove(number)
            self.members.append(Member(training, each["name"], self.task.members[number].stack_size))


def train(folder: Path, context: TrainingContext, memory: PeakMemory) -> bool:
    """Train the pack whose task is in `folder`, or go on with it; True once all are done or have failed."""
    return Pack(folder, PackTask.read(folder), context, memory).run()
