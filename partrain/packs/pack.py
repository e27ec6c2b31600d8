"""A pack trains many trainings in one process: those of one shape in stacks, and all of them a step at a time.

Trainings that end leave the pack, and waiting ones take their place. One that fails leaves too, with its reason in
error.json, and the others continue. Whenever a training leaves or joins, and every `train.checkpoint_seconds`, a round is
written (`rounds.py`): the checkpoints of all active trainings at one moment. A pack that is killed at any moment and
started again therefore ends with the same weights, bit for bit.
"""

import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from partrain.launch.error_report import ErrorReport, read_error_report
from partrain.packs.checks import check_members
from partrain.packs.members import ActiveMember, SharedPeakMemory, StackedMembers, has_ended, split_into_stacks
from partrain.packs.rounds import PackRound, take_back
from partrain.storage import checkpoint
from partrain.storage.run_folder import ERROR_FILE
from partrain.training.context import LocalContext, TrainingContext
from partrain.training.job import Job, JobFile, Member
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining


class Pack:
    """A pack of trainings, begun anew or resumed from the last round in its folder.

    Args:
        job: The pack's job, written in its folder, where the record of its rounds is too. Its option `capacity` says how
            many members train at once at most.
        context: The device, and the requests to stop and to use so many threads. By default there are no requests.
        memory: The meter of the process's peak memory. By default it starts now.

    Attributes:
        members: The members that train now. Those that have ended or failed at the last step leave before the next.
        waiting: The members that have not started, or that were evicted, in the order in which they start.
        capacity: How many members train at once at most. It rises by one with each `join`, and falls when the device's
            memory is too small for as many.
        failures: The messages of failed trainings, by their folder relative to the pack's. error.json in it has more.
    """

    def __init__(self, job: Job, context: TrainingContext | None = None, memory: PeakMemory | None = None) -> None:
        self.folder, self.job = job.folder, job
        self.context = context or LocalContext(job.resources.kind)
        self.memory = SharedPeakMemory(memory or PeakMemory())
        self.last_round = PackRound.read(job.folder) or PackRound.before_first(job)
        self.capacity = self.last_round.capacity + len(job.members) - self.last_round.num_entries
        self.members: list[ActiveMember] = []
        self.stacks: list[StackedMembers] = []
        self.waiting: deque[Member] = deque(job.members)
        self.failures: dict[str, str] = {}
        self._job_file = JobFile(job)
        self._has_changed = True  # Whether members joined or left since the stacks were made.
        self._saved_at = time.monotonic()
        self._saving_seconds = 0.0  # How long the last round took that was of all members.
        self.restore()

    # ---- The story of a pack.

    def run(self) -> bool:
        """Train all members, or until the context asks to stop. Their checkpoints then hold all finished steps.

        Returns:
            Whether every member has finished, paused or failed.
        """
        while not self.context.should_stop():
            self.admit_new_members()
            if self._has_changed:
                self.update_members()
                continue
            if not self.members:
                break

            for stacked in self.stacks:
                self.train_step(stacked)
            self.context.poll()
            if self.is_round_due():
                self.settle()

        if self.has_time_to_save():
            self.settle()
        return not self.members and not self.waiting

    def update_members(self) -> None:
        """Let members leave and others start, and stack them anew."""
        self._has_changed = False
        self.settle()
        self.start_waiting_members()
        self.restack()
        self.settle()  # A member that starts is part of a round before its first step.

    def join(self, folder: Path, pause_after: int | None = None) -> None:
        """Add a training to the pack. It starts with the next step and is stacked with those of its shape.

        It must not be called while the pack does a step. The context's `poll` may call it. An error report that an
        earlier attempt left in the folder is deleted.

        Args:
            folder: The training's folder.
            pause_after: The epoch after which it pauses, or None if it trains to its end.

        Raises:
            UserError: If the folder holds no task, is in the pack already, or the task is on another device.
        """
        folder = Path(os.path.abspath(folder))
        check_members([*(member.folder for member in self.job.members), folder])
        size = max(member.stack_size for member in self.job.members)
        entry = Member(folder=folder, name=str(folder), pause_after=pause_after, stack_size=size)
        self.settle()  # A pack that is killed from now on resumes at this moment, and the training joins then.
        options = {**self.job.options, "capacity": self.job.options["capacity"] + 1}
        replace(self.job, members=(*self.job.members, entry), options=options).write()
        self.admit_new_members()

    def admit_new_members(self) -> None:
        """Let the trainings wait that the job's owner has added to job.json."""
        job = self._job_file.read_if_changed()
        if job is None:
            return
        known = {member.folder for member in self.job.members}
        joining = [member for member in job.members if member.folder not in known]
        self.settle()
        self.job = job
        for member in joining:
            (member.folder / ERROR_FILE).unlink(missing_ok=True)
            self.waiting.append(member)
            self.capacity += 1
        self._has_changed |= bool(joining)

    # ---- Members start and train.

    def start_waiting_members(self) -> None:
        """Start members in their order for as long as there is room for the next."""
        try:
            while self.waiting and self.has_room_for(self.waiting[0]):
                self.start(self.waiting[0])
                self.waiting.popleft()
        except torch.OutOfMemoryError:
            self.capacity = len(self.members)

    def has_room_for(self, entry: Member) -> bool:
        """Return whether a waiting member may start. One that requires more room than the pack has needs all of it.

        One that has ended needs none. Otherwise a resumed pack would keep others waiting for it.
        """
        if self.capacity - len(self.members) >= min(entry.required_room, self.capacity):
            return True
        return has_ended(entry.folder, entry.pause_after)

    def start(self, entry: Member) -> None:
        """Start a member from its own checkpoint, unless it has finished, paused or failed before.

        One whose error report cannot be read is tried again.

        Raises:
            torch.OutOfMemoryError: If there is no memory for it beside the other members.
        """
        report = read_error_report(entry.folder)
        if report is not None:
            self.failures[self.name_of(entry)] = report.message
            return
        try:
            member = ActiveMember(entry, SegmentTraining(entry.folder, self.context, self.memory))
        except Exception as error:  # A user's network or label family runs here, and may raise anything.
            if isinstance(error, torch.OutOfMemoryError) and self.members:
                raise
            self.record_failure(entry, ErrorReport.from_exception(error))
            return
        if member.next_step is None:
            self.finalize(member)
            return
        self.members.append(member)

    def train_step(self, stacked: StackedMembers) -> None:
        """Do one step of the members of a stack. Those that end or fail leave the pack before the next."""
        steps = [member.next_step for member in stacked.members if member.next_step is not None]
        recover: Callable[[StackedMembers], None]
        try:
            stacked.stack.train_step(steps)
        except torch.OutOfMemoryError:
            recover = self.shrink
        except Exception as error:
            recover = partial(self.separate, failure=ErrorReport.from_exception(error))
        else:
            for member, step in zip(stacked.members, steps, strict=True):
                self.complete_step(member, step)
            return
        recover(stacked)  # Not before the error is gone, which holds the tensors of the failed step.

    def complete_step(self, member: ActiveMember, step: Step) -> None:
        """Log a member's step and advance to its next one. A member that has none, or that fails, is going to leave."""
        try:
            member.training.log_step(step)
        except Exception as error:
            member.failure = ErrorReport.from_exception(error)
        else:
            member.advance()
        self._has_changed |= member.is_leaving

    def name_of(self, entry: Member) -> str:
        """Return the folder of a member's training relative to the pack's, which names it in round.json."""
        return os.path.relpath(entry.folder, self.folder)

    # ---- Members leave.

    def settle(self) -> None:
        """Write a round, and then let those members leave that have ended, failed or been evicted.

        The others' last bits depend on when a member left. If the pack is killed before the round counts, the member
        is taken back with the others. If it is killed afterwards, the round says that the member leaves at this moment.
        """
        self.save_round()
        leaving = [member for member in self.members if member.is_leaving]
        self.members = self.staying_members()
        for member in leaving:
            if member.failure is not None:
                self.record_failure(member.entry, member.failure)
            elif not member.is_evicted:
                self.finalize(member)
        if self.last_round.failed:
            self.commit_round({})  # The reports are in the members' folders, where they may be deleted to try again.

    def staying_members(self) -> list[ActiveMember]:
        """Return the members that train on."""
        return [member for member in self.members if not member.is_leaving]

    def finalize(self, member: ActiveMember) -> None:
        """Write the files of a member at its end or pause, which are those that its training alone would write."""
        try:
            member.training.finalize()
        except Exception as error:  # A user's layers run here, to store their outputs.
            self.record_failure(member.entry, ErrorReport.from_exception(error))

    def record_failure(self, entry: Member, report: ErrorReport) -> None:
        """Write the reason of a member's failure to error.json in its folder."""
        self.failures[self.name_of(entry)] = report.message
        checkpoint.write_json(entry.folder / ERROR_FILE, asdict(report))

    # ---- Stacks.

    def restack(self) -> None:
        """Stack the members by shape, and evict members until the stacks fit into memory."""
        self.flush_losses()
        while not self.build_stacks():
            self.evict(self.members[len(self.members) // 2 :])
            self.settle()
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

    # ---- Recovery from a failed step.

    def separate(self, stacked: StackedMembers, failure: ErrorReport) -> None:
        """Do a step that failed in a stack for each member alone, so that those fail whose own step does.

        If no step fails, the members cannot be stacked, and train unstacked from now on.
        """
        self._has_changed = True
        if len(stacked.members) == 1:
            stacked.members[0].failure = failure
            return
        stacked.stack.flush_losses()
        for member in stacked.members:
            self.train_step(StackedMembers.build([member]))
        if not any(member.is_leaving for member in stacked.members):
            for member in stacked.members:
                member.shape = member.entry.folder
            reason = f"{failure.type}: {failure.message}"
            warnings.warn(f"A step that failed for a stack succeeded for each member alone ({reason})", stacklevel=2)

    def shrink(self, stacked: StackedMembers) -> None:
        """Evict half of a stack's members, whose step did not fit into memory. None of them has done the step."""
        stacked.stack.flush_losses()
        members = stacked.members
        self.evict(members[(len(members) + 1) // 2 :] or members)

    def evict(self, members: Sequence[ActiveMember]) -> None:
        """Let `members` leave, and wait until others have ended. The last member of a pack fails instead.

        From now on no more members train at once than remain.
        """
        self._has_changed = True
        if len(members) == len(self.staying_members()):
            training = members[0].training
            error = torch.OutOfMemoryError(
                f"{training.folder}: one training alone does not fit into the memory of {training.device}; "
                "choose a smaller train.batch_size or a smaller network"
            )
            members[0].failure = ErrorReport.from_exception(error)
            return
        for member in members:
            member.is_evicted = True
        waiting = {entry.folder for entry in self.waiting} | {member.entry.folder for member in members}
        self.waiting = deque(entry for entry in self.job.members if entry.folder in waiting)
        self.capacity = len(self.staying_members())

    # ---- Rounds.

    def is_round_due(self) -> bool:
        """Return whether `train.checkpoint_seconds` have passed, the smallest of the members' settings."""
        settings = [member.training.task.train for member in self.members]
        seconds = min((train.checkpoint_seconds for train in settings), default=math.inf)
        return time.monotonic() - self._saved_at > seconds

    def has_time_to_save(self) -> bool:
        """Return whether a round takes less time than the context leaves before the pack must end."""
        limit = self.context.stop_seconds
        estimate = sum(member.training.estimate_saving_seconds() for member in self.members if member.has_unsaved_steps)
        return limit is None or (self._saving_seconds or estimate) < limit

    def save_round(self) -> None:
        """Write the checkpoints of all members that have done steps since the last round, and then make it count."""
        began_at = time.monotonic()
        self.flush_losses()
        unsaved = [member for member in self.members if member.has_unsaved_steps]
        for member in unsaved:
            member.training.add_usage()  # Before any is written, which does not count as training.
        for member in unsaved:
            member.save(self.last_round.number + 1)
        failures = {self.name_of(member.entry): member.failure for member in self.members}
        self.commit_round({folder: asdict(report) for folder, report in failures.items() if report is not None})
        for member in self.members:
            member.training.usage.skip_time()
        self._saved_at = time.monotonic()
        if len(unsaved) == len(self.members):
            self._saving_seconds = self._saved_at - began_at

    def commit_round(self, failed: dict[str, dict[str, Any]]) -> None:
        """Write round.json, unless nothing has changed since the last round.

        Args:
            failed: The reports of the members that fail at this moment, by their folders.
        """
        members = [member for member in self.members if member.failure is None and not member.is_evicted]
        current = PackRound(
            number=self.last_round.number,
            members={self.name_of(member.entry): member.saved_round for member in members},
            failed=failed,
            capacity=self.capacity,
            num_entries=len(self.job.members),
        )
        if current != self.last_round:
            self.last_round = replace(current, number=current.number + 1)
            self.last_round.write(self.folder)

    def restore(self) -> None:
        """Start the members of the last round from their checkpoints of that round.

        One that has trained on elsewhere, or has finished, starts from its own checkpoint. All others wait.
        """
        entries = {self.name_of(entry): entry for entry in self.job.members}
        for name, report in self.last_round.failed.items():
            self.record_failure(entries[name], ErrorReport(**report))
        for name, written_for in self.last_round.members.items():
            folder, next_round = entries[name].folder, self.last_round.number + 1
            take_back(folder, written_for=written_for, uncommitted=next_round)
        with suppress(torch.OutOfMemoryError):  # The members that are left wait for memory.
            for name in self.last_round.members:
                self.start(entries[name])
                self.waiting.remove(entries[name])


def make_work(job: Job, context: TrainingContext, memory: PeakMemory) -> Pack:
    """Return the pack that `job` describes, begun anew or resumed from its last round."""
    return Pack(job, context, memory)
