"""A pack trains many trainings in one process: those of one shape in stacks, and all of them a step at a time.

Trainings that end leave the pack, and waiting ones take their place. One that cannot start or whose loss is not finite
leaves too, with its reason in error.json, and the others continue. Any other error ends the pack. One checkpoint holds
all active trainings as they are between two rounds of steps. A pack that is killed at any moment and started again
therefore ends with the same weights, bit for bit.
"""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partrain.errors import UserError
from partrain.launch.error_report import read_error_report, write_error_report
from partrain.packs.members import ActiveMember, SharedPeakMemory, StackedMembers, split_into_stacks
from partrain.packs.task import PackMember, PackTask, check_members
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining

_CHECKPOINT_SECONDS = 60.0


class Pack:
    """A pack of trainings, begun anew or resumed from the checkpoint in its folder.

    Args:
        folder: The pack's folder, for its checkpoint.
        task: The pack's members and how many of them train at once.
        context: The requests to stop and to use so many threads. By default there are none.
        memory: The meter of the process's peak memory. By default it starts now.

    Attributes:
        members: The members that train now.
        waiting: The members that have not started, or that were evicted, in the order in which they start.
        capacity: How many members train at once at most. It rises by one with each `join`, and falls when the device's
            memory is too small for as many.
        failures: The messages of failed trainings, by their folder relative to the pack's. error.json in it has more.
    """

    def __init__(
        self, folder: Path, task: PackTask, context: TrainingContext | None = None, memory: PeakMemory | None = None
    ) -> None:
        self.folder, self.task = folder, task
        self.context = context or TrainingContext(folder)
        self.memory = SharedPeakMemory(memory or PeakMemory())
        self.capacity = task.capacity
        self.members: list[ActiveMember] = []
        self.stacks: list[StackedMembers] = []
        self.waiting: deque[PackMember] = deque(task.members)
        self.failures: dict[str, str] = {}
        self._has_changed = True  # Whether members joined or left since the stacks were made.
        self.restore_checkpoint()

    # ---- The story of a pack.

    def run(self) -> bool:
        """Train all members, or until the context asks to stop. A checkpoint then holds all finished steps.

        Returns:
            Whether every member has finished, paused or failed.
        """
        saved_at = time.monotonic()
        while not self.context.should_stop():
            if self._has_changed:
                self.start_waiting_members()
                self.restack()
                self.save_checkpoint()
                self._has_changed = False
            if not self.members:
                break

            for stacked in list(self.stacks):
                self.train_step(stacked)
            self.context.poll()
            if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                self.save_checkpoint()
                saved_at = time.monotonic()

        if self.members:
            self.save_checkpoint()
        return not self.members and not self.waiting

    def join(self, folder: Path, pause_after: int | None = None) -> None:
        """Add a training to the pack. It starts with the next step and is stacked with those of its shape.

        Args:
            folder: The training's folder.
            pause_after: The epoch after which it pauses, or None if it trains to its end.

        Raises:
            UserError: If the folder holds no task, is in the pack already, or the task is on another device.
        """
        check_members([*self.task.member_folders(self.folder), folder.resolve()])
        entry = PackMember(
            folder=os.path.relpath(folder, self.folder),
            pause_after=pause_after,
            stack_size=max(member.stack_size for member in self.task.members),
        )
        self.task = replace(self.task, members=[*self.task.members, entry])
        self.task.write(self.folder)
        self.waiting.append(entry)
        self.capacity += 1
        self._has_changed = True

    # ---- Members start, train and leave.

    def start_waiting_members(self) -> None:
        """Start members in their order for as long as there is room for the next."""
        while self.waiting and self.has_room_for(self.waiting[0]):
            self.start(self.waiting.popleft())

    def has_room_for(self, entry: PackMember) -> bool:
        """Return whether a waiting member may start. One that requires more room than the pack has needs all of it."""
        return self.capacity - len(self.members) >= min(entry.required_room, self.capacity)

    def start(self, entry: PackMember) -> None:
        """Start a member from its own checkpoint, unless it has finished, paused or failed before.

        One whose error report cannot be read is tried again.
        """
        folder = self.folder_of(entry)
        report = read_error_report(folder)
        if report is not None:
            self.failures[entry.folder] = report.message
            return
        try:
            training = SegmentTraining(folder, self.context, self.memory)
        except (ValueError, OSError) as error:  # A user's label family runs here, and may raise any ValueError.
            self.record_failure(entry, error)
            return
        member = ActiveMember(entry, training)
        if member.next_step is None:
            self.finalize(member)
            return
        self.members.append(member)

    def train_step(self, stacked: StackedMembers) -> None:
        """Do one step of the members of a stack. Those that end or fail leave the pack."""
        steps = [member.next_step for member in stacked.members if member.next_step is not None]
        try:
            stacked.stack.train_step(steps)
        except torch.OutOfMemoryError:
            self.shrink(stacked)
            return
        for member, step in zip(stacked.members, steps, strict=True):
            self.complete_step(member, step)

    def complete_step(self, member: ActiveMember, step: Step) -> None:
        """Log a member's step and advance to its next one. A member that has none, or that fails, leaves the pack."""
        if step.is_logged:
            try:
                member.training.log_step(step)
            except UserError as error:
                self.remove(member)
                self.record_failure(member.entry, error)
                return
        member.advance()
        if member.next_step is None:
            self.finalize(member)
            self.remove(member)

    def finalize(self, member: ActiveMember) -> None:
        """Write the files of a member at its end or pause, which are those that its training alone would write."""
        training = member.training
        if not training.progress.finished:
            training.save_checkpoint()
        training.finalize()

    def remove(self, member: ActiveMember) -> None:
        """Remove a member from those that train. The others are stacked anew before the next step."""
        self.members.remove(member)
        self._has_changed = True

    def record_failure(self, entry: PackMember, error: Exception) -> None:
        """Write the reason of a member's failure to error.json in its folder."""
        self.failures[entry.folder] = str(error)
        write_error_report(self.folder_of(entry), error)

    def folder_of(self, entry: PackMember) -> Path:
        """Return the absolute folder of a member's training."""
        return (self.folder / entry.folder).resolve()

    # ---- Stacks.

    def restack(self) -> None:
        """Stack the members by shape, and evict members until the stacks fit into memory."""
        self.flush_losses()
        while not self.build_stacks():
            self.evict(self.members[len(self.members) // 2 :])
        self.share_process()

    def build_stacks(self) -> bool:
        """Build the stacks of all members and return whether they fit into memory.

        A stack whose members stay the same is used again. If memory runs out, only the stacks built until then remain,
        since trainings may have left the older ones.
        """
        reusable = {tuple(stacked.members): stacked for stacked in self.stacks}
        self.stacks = []
        try:
            for members in split_into_stacks(self.members):
                self.stacks.append(reusable.get(tuple(members)) or StackedMembers.build(members))
        except torch.OutOfMemoryError:
            return False
        return True

    def share_process(self) -> None:
        """Attribute the process's peak memory and CPU time to its members in equal shares."""
        self.memory.share_among(len(self.members))
        for member in self.members:
            member.training.process_share = 1 / len(self.members)

    def flush_losses(self) -> None:
        """Let every training receive the losses of its steps that its stack still holds."""
        for stacked in self.stacks:
            stacked.stack.flush_losses()

    # ---- Recovery when the device's memory is full.

    def shrink(self, stacked: StackedMembers) -> None:
        """Evict half of a stack's members, whose step did not fit into memory. Their finished steps are saved."""
        stacked.stack.flush_losses()
        members = stacked.members
        self.evict(members[(len(members) + 1) // 2 :] or members)

    def evict(self, members: Sequence[ActiveMember]) -> None:
        """Write `members` to their checkpoints and let them wait until others have ended.

        From now on no more members train at once than remain.

        Raises:
            torch.OutOfMemoryError: If no other member would remain.
        """
        if len(members) == len(self.members):
            training = members[0].training
            raise torch.OutOfMemoryError(
                f"{training.folder}: one training alone does not fit into the memory of {training.device}; "
                "choose a smaller train.batch_size or a smaller network"
            )
        for member in members:
            member.training.save_checkpoint()
            self.remove(member)
        waiting = {entry.folder for entry in self.waiting} | {member.entry.folder for member in members}
        self.waiting = deque(entry for entry in self.task.members if entry.folder in waiting)
        self.capacity = len(self.members)

    # ---- The checkpoint of all active members.

    def save_checkpoint(self) -> None:
        """Write the state of all active members to one file, and their metrics to their folders."""
        self.flush_losses()
        tensors: dict[str, Tensor] = {}
        records = []
        for place, member in enumerate(self.members):
            tensors |= {f"{place}.{name}": tensor for name, tensor in member.training.state().items()}
            records.append({"name": member.entry.folder, "progress": member.training.progress.to_json()})
        checkpoint.save(self.folder / CHECKPOINT, tensors, {"members": records, "capacity": self.capacity})
        for member in self.members:
            member.training.progress.write_metrics(member.training.folder)
            member.training.usage.skip_time()

    def restore_checkpoint(self) -> None:
        """Restore the members that were active at the checkpoint, if there is one.

        All others wait, and start from their own checkpoints.
        """
        try:
            tensors, metadata = checkpoint.load(self.folder / CHECKPOINT)
        except FileNotFoundError:
            return
        self.capacity = metadata["capacity"]
        entries = {entry.folder: entry for entry in self.task.members}
        for place, record in enumerate(metadata["members"]):
            entry = entries[record["name"]]
            training = self.restore_training(entry, _with_prefix(tensors, f"{place}."), record["progress"])
            self.waiting.remove(entry)
            self.members.append(ActiveMember(entry, training))

    def restore_training(
        self, entry: PackMember, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]
    ) -> SegmentTraining:
        """Return the training of a member with its state from the pack's checkpoint."""
        training = SegmentTraining(self.folder_of(entry), self.context, self.memory, resume=False)
        training.load_state({name: tensor.to(training.device) for name, tensor in tensors.items()}, progress)
        return training


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def make_training(folder: Path, context: TrainingContext, memory: PeakMemory) -> Pack:
    """Return the pack whose task is in `folder`, begun anew or resumed from its checkpoint."""
    return Pack(folder, PackTask.read(folder), context, memory)
