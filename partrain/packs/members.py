"""The members of a pack while they train: their next steps, their ends, their stacks, and their share of the memory."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from partrain.launch.error_report import ErrorReport, read_error_report
from partrain.packs.stack import Stack, UnstackedTraining, make_stack, stacking_shape
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.job import Member
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask


class ActiveMember:
    """A training under way in a pack.

    Args:
        entry: The training as an entry of the pack's job.
        training: The training, restored to the step at which it resumes.

    Attributes:
        shape: What members must have in common to be stacked.
        next_step: The step that the training does next, or None at its end or pause.
        failure: The report of the error that ended the training, or None.
        is_evicted: Whether the training has to wait until there is memory for it.
    """

    def __init__(self, entry: Member, training: SegmentTraining) -> None:
        training.pause_after = entry.pause_after
        self.entry, self.training = entry, training
        self.shape: Hashable = stacking_shape(training) if entry.stack_size > 1 else entry.folder
        self._steps: Iterator[Step] = training.steps()
        self.next_step: Step | None = next(self._steps, None)
        self.failure: ErrorReport | None = None
        self.is_evicted = False
        # The step of the checkpoint that rounds may name. One of no round is written anew before the first step.
        self._saved_step = None if training.progress.round is None else training.progress.step

    @property
    def is_leaving(self) -> bool:
        """Return whether the training has ended, paused, failed or been evicted."""
        return self.next_step is None or self.failure is not None or self.is_evicted

    @property
    def has_unsaved_steps(self) -> bool:
        """Return whether the next round needs a new checkpoint of the training. One that has failed keeps its last."""
        return self.failure is None and self._saved_step != self.training.progress.step

    @property
    def saved_round(self) -> int:
        """Return the number of the round that the training's checkpoint was written for."""
        assert self.training.progress.round is not None
        return self.training.progress.round

    def save(self, round_number: int) -> None:
        """Write the training's checkpoint for a round."""
        self.training.write_round(round_number)
        self._saved_step = self.training.progress.step

    def advance(self) -> None:
        """Set `next_step` to the step after it. The present one has to be done and logged."""
        self.next_step = next(self._steps, None)


def has_ended(folder: Path, pause_after: int | None) -> bool:
    """Return whether the training in `folder` has failed, finished, or come to the end of epoch `pause_after`."""
    if read_error_report(folder) is not None:
        return True
    try:
        progress = checkpoint.load_metadata(folder / CHECKPOINT)
    except (FileNotFoundError, checkpoint.DamagedFile):
        return False
    if progress["finished"] or pause_after is None:
        return bool(progress["finished"])
    task = SegmentTask.read(folder)
    return bool(progress["step"] >= pause_after * (task.num_images // task.train.batch_size))


@dataclass(frozen=True, eq=False)
class StackedMembers:
    """Members of one shape, and the stack that computes their steps."""

    members: list[ActiveMember]
    stack: Stack | UnstackedTraining

    @classmethod
    def build(cls, members: list[ActiveMember]) -> "StackedMembers":
        """Return `members` in a new stack.

        Raises:
            torch.OutOfMemoryError: If the device has no memory for it.
        """
        return cls(members, make_stack([member.training for member in members]))


def split_into_stacks(members: Sequence[ActiveMember]) -> list[list[ActiveMember]]:
    """Return `members` by shape, in their order, in lists no longer than the stack size of their shape."""
    members_by_shape: dict[Hashable, list[ActiveMember]] = defaultdict(list)
    for member in members:
        members_by_shape[member.shape].append(member)

    stacks = []
    for same_shape in members_by_shape.values():
        size = same_shape[0].entry.stack_size
        stacks += [same_shape[first : first + size] for first in range(0, len(same_shape), size)]
    return stacks


class SharedPeakMemory(PeakMemory):
    """The peak memory of a pack's process, in equal shares for as many trainings as were under way at once.

    Args:
        process_memory: The peak memory of the process.
    """

    def __init__(self, process_memory: PeakMemory) -> None:
        # The base class would begin a new measurement.
        self._process_memory = process_memory
        self._num_shares = 1

    def share_among(self, num_trainings: int) -> None:
        """Split the peak into at least `num_trainings` shares from now on."""
        self._num_shares = max(self._num_shares, num_trainings)

    def bytes(self, device: torch.device) -> int | None:
        """Return the peak memory of one training on `device`, in bytes, or None if devices of its kind do not report it."""
        peak_bytes = self._process_memory.bytes(device)
        return None if peak_bytes is None else peak_bytes // self._num_shares
