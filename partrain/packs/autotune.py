"""The measurement of whether stacking trainings of one shape pays, and how many, by steps of throwaway copies.

Stacking saves the time between matrix products: calls, allocations, passes over little data. It costs a larger working
set. Which of the two outweighs the other depends on shapes, threads and caches, so it is measured and not estimated.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from partrain.device import synchronize
from partrain.errors import UserError
from partrain.packs.capacity import LiveBytesMode, StackMemory
from partrain.packs.stack import make_stack
from partrain.training.context import LocalContext
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask

STACK_SIZES = (2, 4, 8, 16, 32)
"""The stack sizes that are tried, each twice the one before."""
MIN_SPEEDUP = 1.1
"""The speed-up from which stacking is chosen. Timings of the same step differ by as much as a smaller one."""

_MANY_EPOCHS = 1_000_000  # More than any measurement trains.

_WARM_UP_STEPS, _MIN_STEPS, _MIN_SECONDS = 2, 3, 0.25  # Of each measurement; both minima have to be reached.

MeasureStep = Callable[[Sequence[SegmentTraining]], float]
"""A function that returns the seconds of one step of all given trainings, stacked."""


@dataclass(frozen=True, kw_only=True)
class StackTimings:
    """The measured speed of stacks of trainings of one shape, and how many of them fit into memory."""

    step_seconds: dict[int, float]
    """Seconds of a step per training, by the size of its stack. Size 1 is a training alone."""
    max_size: int
    """How many trainings fit into memory at once."""

    @property
    def best_size(self) -> int:
        """Return the fastest of the measured sizes, or 1 if no stack reaches `MIN_SPEEDUP`."""
        fastest = min(self.step_seconds, key=self.step_seconds.__getitem__)
        return fastest if self.speedup(fastest) >= MIN_SPEEDUP else 1

    def speedup(self, size: int) -> float:
        """Return how many times as fast stacks of `size` train as the same trainings one after another."""
        return self.step_seconds[1] / self.step_seconds[size]

    def choose_size(self, count: int) -> int:
        """Return the size of the stacks in which `count` trainings train fastest.

        That is the fastest measured size. If no larger size was measured, and fewer than twice as many trainings exist
        or fit, all of them make one stack.
        """
        largest = min(count, self.max_size)
        best = self.best_size
        if best > 1 and best == max(self.step_seconds) and largest < 2 * best:
            return largest
        return min(best, largest)

    def restrict_to(self, count: int) -> "StackTimings | None":
        """Return the timings that apply to `count` trainings, or None if larger stacks have to be measured first."""
        largest = max(self.step_seconds)
        could_be_larger = min(count, self.max_size) >= 2 * largest and largest < STACK_SIZES[-1]
        if could_be_larger and not self.is_past_best(largest):
            return None
        return replace(
            self, step_seconds={size: self.step_seconds[size] for size in self.step_seconds if size <= count}
        )

    def is_past_best(self, size: int) -> bool:
        """Return whether stacks of `size` are slower than smaller ones. Larger ones then are too."""
        return self.step_seconds[size] > 1.05 * min(self.step_seconds.values())

    def describe(self, count: int) -> str:
        """Return how `count` trainings will train and the measurement behind it, to follow "They train"."""
        if self.max_size == 1:
            return "one after another: memory has room for one at a time"
        if self.best_size == 1:
            stacks = [size for size in self.step_seconds if size > 1]
            fastest = max(stacks, key=self.speedup)
            speedup = f"{self.speedup(fastest):.2f} times as fast"
            return f"one after another: in a trial, stacks of {fastest} were only {speedup}"
        size, best = self.choose_size(count), self.best_size
        speedup = f"{self.speedup(best):.2f} times as fast as one after another"
        if size == best:
            return f"in stacks of {size}: in a trial, this was {speedup}"
        return f"in stacks of {size}: in a trial, stacks of {best} were {speedup}"


class TooLarge(UserError):
    """An error that says that not even one training fits into the memory that packs may take."""


def autotune(tasks: Sequence[SegmentTask], folder: Path, budget: int, measure: MeasureStep) -> StackTimings:
    """Return the timings of stacks of `tasks`, measured with more and more members until they get slower.

    Args:
        tasks: Tasks of one shape.
        folder: The folder for throwaway copies, of which none is left.
        budget: The memory that a stack may take, in bytes.
        measure: The function that times a step, such as `measure_step`.

    Raises:
        TooLarge: If not even one training fits into the budget.
    """
    timings = StackTimings(step_seconds={}, max_size=max_stack_size(tasks, folder, budget))
    sizes = [size for size in STACK_SIZES if size <= min(len(tasks), timings.max_size)]
    trainings: list[SegmentTraining] = []
    with tempfile.TemporaryDirectory(dir=folder) as copies:
        for size in (1, *sizes):
            trainings += make_throwaway_copies(tasks[len(trainings) : size], Path(copies) / str(size))
            timings.step_seconds[size] = measure(trainings) / size
            if timings.is_past_best(size):
                break
    return timings


def max_stack_size(tasks: Sequence[SegmentTask], folder: Path, budget: int) -> int:
    """Return how many trainings of the shape of `tasks` fit into `budget` bytes. Copies in `folder` measure it.

    Raises:
        TooLarge: If not even one fits.
    """
    memory = measure_memory(tasks, folder)
    size = memory.max_members(budget)
    if size < 1:
        raise TooLarge(
            f"One training of the pack needs {memory.fixed_bytes + memory.member_bytes:,} bytes, but packs may take "
            f"{budget:,}; raise grouping.memory_gib, or train smaller networks or batches"
        )
    return size


def measure_memory(tasks: Sequence[SegmentTask], folder: Path) -> StackMemory:
    """Return the memory of stacks of `tasks`: weights, gradients, optimiser state and activations.

    It is measured in stacks of two and three, whose difference is what one more training takes, by copies in `folder`.
    """
    peaks = []
    for size in (2, 3):
        with tempfile.TemporaryDirectory(dir=folder) as copies:
            trainings = make_throwaway_copies([tasks[number % len(tasks)] for number in range(size)], Path(copies))
            make_step(trainings[:1])()  # Libraries load memory at a process's first step, which belongs to no stack.
            with LiveBytesMode() as mode:
                step = make_step(trainings)
                step()
                step()  # The optimiser's state exists from the end of the first step.
        peaks.append((size, mode.peak_bytes))
    return StackMemory.fit(*peaks)


def make_throwaway_copies(tasks: Sequence[SegmentTask], folder: Path) -> list[SegmentTraining]:
    """Return a fresh training of each task, in a folder of its own below `folder`, that reads and leaves no weights."""
    trainings = []
    for number, task in enumerate(tasks):
        copy_folder = folder / str(number)
        settings = replace(task.train, epochs=_MANY_EPOCHS)
        replace(task, train=settings, stored_input=None, stored_output=None, initial=None).write(copy_folder)
        trainings.append(SegmentTraining(copy_folder, LocalContext(task.device), PeakMemory()))
    return trainings


def make_step(trainings: Sequence[SegmentTraining]) -> Callable[[], None]:
    """Return a function that does the next step of all `trainings`, which are stacked if there are several."""
    stack = make_stack(trainings)
    iterators = [training.steps() for training in trainings]

    def step() -> None:
        stack.train_step([next(iterator) for iterator in iterators])

    return step


def measure_step(trainings: Sequence[SegmentTraining]) -> float:
    """Return the seconds of a step of `trainings`: the least of several, since other programs only add to it."""
    step, device = make_step(trainings), trainings[0].device
    for _ in range(_WARM_UP_STEPS):
        step()

    seconds: list[float] = []
    while len(seconds) < _MIN_STEPS or sum(seconds) < _MIN_SECONDS:
        started = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
