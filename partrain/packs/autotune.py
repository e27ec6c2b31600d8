"""Whether it pays to stack trainings of a shape, and how many: tried out on a few steps of throwaway copies.

What stacking saves is the time between products: calls, allocations, passes over little. What it costs is the size of
its working set. Which of the two weighs more depends on shapes, threads and caches, so it is measured, not guessed.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from partrain.device import synchronize
from partrain.errors import UserError
from partrain.packs.capacity import LiveBytes, Need
from partrain.packs.stack import Stack
from partrain.training.context import TrainingContext
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask

SIZES = (2, 4, 8, 16, 32)
WORTH_IT = 1.1  # a gain below this is within what timings differ by

_ENDLESS = 1_000_000  # epochs

Measure = Callable[[Sequence[SegmentTraining]], float]

_WARM_UP, _LEAST, _SECONDS = 2, 3, 0.25  # steps, steps, seconds of each trial


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Of trainings of which `room` can be under way at once; `seconds` of a step of one, by its stack's size (1: alone)."""

    seconds: dict[int, float]
    room: int

    @property
    def best(self) -> int:
        """The size at which a training is fastest, of those tried; 1 where no stack is faster by much."""
        best = min(self.seconds, key=self.seconds.__getitem__)
        return best if self.gain(best) >= WORTH_IT else 1

    def stack_size(self, count: int) -> int:
        """How many of `count` to stack: as many as were best, or all of them where twice as many were not tried."""
        most = min(count, self.room)
        return most if 1 < self.best == max(self.seconds) and most < 2 * self.best else min(self.best, most)

    def gain(self, size: int) -> float:
        """How many times as fast stacks of `size` are as the same trainings one after another."""
        return self.seconds[1] / self.seconds[size]

    def among(self, count: int) -> "Advice | None":
        """What it says of `count` trainings of the shape; None where larger stacks than were tried would have to be."""
        largest = max(self.seconds)
        more = min(count, self.room) >= 2 * largest and largest < SIZES[-1]
        if more and not self.is_past_best(largest):
            return None
        return replace(self, seconds={size: spent for size, spent in self.seconds.items() if size <= count})

    def is_past_best(self, size: int) -> bool:
        """Whether stacks of `size`, and so larger ones, are slower than smaller ones."""
        return self.seconds[size] > 1.05 * min(self.seconds.values())

    def sentence(self, count: int) -> str:
        """What is advised for `count` trainings, and why."""
        if self.best > 1:
            size = self.stack_size(count)
            tried = f" of {self.best}" if size != self.best else ""
            gain = f"{self.gain(self.best):.2f} times as fast as one after another"
            return f"stacks of {size}, {gain} in a trial{tried}"
        others = [other for other in self.seconds if other > 1]
        best = max(others, key=self.gain, default=1)
        return f"not stacked: in a trial stacks of {best} were {self.gain(best):.2f} times as fast as one after another"


def advise(tasks: Sequence[SegmentTask], budget: int, measure: Measure | None = None) -> Advice:
    """Try stacks of `tasks`, which are of one shape, as far as they fit into `budget` bytes.

    `measure`: gives the seconds of a step of trainings; `step_seconds` by default.

    Raises:
        ValueError: not even one fits.
    """
    measure = measure or step_seconds
    room = capacity(tasks, budget)
    advice = Advice(seconds={}, room=room)
    trainings: list[SegmentTraining] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, *(size for size in SIZES if size <= min(len(tasks), room))):
            trainings += copies(tasks[len(trainings) : size], Path(folder) / str(size))
            advice.seconds[size] = measure(trainings) / size
            if advice.is_past_best(size):
                break
    return advice


def capacity(tasks: Sequence[SegmentTask], budget: int) -> int:
    """How many of `tasks`, which are of one shape, fit into `budget` bytes.

    Raises:
        ValueError: not even one does.
    """
    need = dry_run(tasks)
    if need.capacity(budget) < 1:
        raise UserError(
            f"one training of the pack needs {need.fixed + need.each:,} bytes, its budget is {budget:,}; "
            "raise launch.pack_memory_gib, or train smaller networks or batches"
        )
    return need.capacity(budget)


def dry_run(tasks: Sequence[SegmentTask]) -> Need:
    """The bytes of a step of stacks of these `tasks`, from two sizes of them: weights, gradients, state, activations."""
    peaks = []
    for size in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            trainings = copies([tasks[number % len(tasks)] for number in range(size)], Path(folder))
            stepping(trainings[:1])()  # what the first step of a process loads is nobody's alone
            with LiveBytes() as live:
                step = stepping(trainings)
                step()
                step()  # an optimiser's state is there from the first step on
        peaks.append((size, live.peak))
    return Need.through(*peaks)


def copies(tasks: Sequence[SegmentTask], folder: Path) -> list[SegmentTraining]:
    """Trainings of `tasks`, in folders below `folder`, that nobody will miss."""
    trainings = []
    for number, task in enumerate(tasks):
        own = folder / str(number)
        endless = replace(task.train, epochs=_ENDLESS)
        replace(task, train=endless, stored_input=None, stored_output=None, initial=None).write(own)
        trainings.append(SegmentTraining(own, TrainingContext(own), PeakMemory()))
    return trainings


def stepping(trainings: Sequence[SegmentTraining]) -> Callable[[], None]:
    """A function that does a step of `trainings`, stacked if there are several."""
    stack = Stack(trainings)
    steps = [training.steps() for training in trainings]

    def step() -> None:
        stack.step([next(each) for each in steps])

    return step


def step_seconds(trainings: Sequence[SegmentTraining]) -> float:
    """Seconds of a step, the least of a few: whatever else the machine does only adds to it."""
    step, device = stepping(trainings), trainings[0].device
    for _ in range(_WARM_UP):
        step()
    spent: list[float] = []
    while len(spent) < _LEAST or sum(spent) < _SECONDS:
        started = time.perf_counter()
        step()
        synchronize(device)
        spent.append(time.perf_counter() - started)
    return min(spent)
