"""The members of a pack while they train: their next steps, their stacks, and their share of the process's memory."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from partrain.packs.stack import Stack, UnstackedTraining, make_stack, stacking_shape
from partrain.packs.task import PackMember
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining


class ActiveMember:
    """A training under way in a pack.

    Args:
        entry: The training's entry in the pack's task.
        training: The training, restored to the step at which it resumes.

    Attributes:
        shape: What members must have in common to be stacked.
        next_step: The step that the training does next, or None at its end or pause.
    """

    def __init__(self, entry: PackMember, training: SegmentTraining) -> None:
        training.pause_after = entry.pause_after
        self.entry, self.training = entry, training
        self.shape: Hashable = stacking_shape(training) if entry.stack_size > 1 else entry.folder
        self._steps: Iterator[Step] = training.steps()
        self.next_step: Step | None = next(self._steps, None)

    def advance(self) -> None:
        """Set `next_step` to the step after it. The present one has to be done and logged."""
        self.next_step = next(self._steps, None)


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
