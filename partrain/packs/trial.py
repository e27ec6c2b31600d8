"""The engine of a trial: it measures how fast and how large stacks of trainings are, in a process that ends with it."""

import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partrain.device import free_bytes, make_current
from partrain.packs.autotune import StackTimings, TooLarge, autotune, max_stack_size, measure_step
from partrain.storage import checkpoint
from partrain.storage.run_folder import TASK_FILE, TIMINGS, TRIAL_COPIES
from partrain.training.context import TrainingContext
from partrain.training.job import Job, Resources
from partrain.training.meters import PeakMemory
from partrain.training.task import SegmentTask


def trial_job(
    folder: Path, shapes: Sequence[Sequence[Path]], kind: str, memory_bytes: int | None, *, times_steps: bool
) -> Job:
    """Return the job that measures stacks of trainings, shape by shape.

    Args:
        folder: The job's folder.
        shapes: The folders of the trainings of each shape.
        kind: The kind of device to measure on.
        memory_bytes: The memory that a stack may take, or None for all that is free.
        times_steps: Whether steps are timed. Otherwise only the memory is measured.
    """
    return Job(
        folder=folder,
        kind="pack_trial",
        name="the trial of packs",
        resources=Resources(kind=kind),
        waits_for=tuple(training / TASK_FILE for trainings in shapes for training in trainings),
        options={
            "sizes": [len(trainings) for trainings in shapes],
            "memory_bytes": memory_bytes,
            "times_steps": times_steps,
        },
    )


def read_timings(folder: Path) -> list[StackTimings]:
    """Return what the trial in `folder` has measured, shape by shape."""
    return [
        StackTimings(
            step_seconds={int(size): seconds for size, seconds in values["step_seconds"].items()},
            max_size=values["max_size"],
        )
        for values in checkpoint.read_json(folder / TIMINGS)
    ]


@dataclass(frozen=True)
class PackTrial:
    """A trial, which leaves the timings of all shapes in its folder."""

    job: Job
    context: TrainingContext

    @property
    def copies(self) -> Path:
        """Return the folder of the throwaway copies."""
        return self.job.folder / TRIAL_COPIES

    def run(self) -> bool:
        """Measure all shapes, and return whether that is done. It is not if the context asked to stop.

        Raises:
            TooLarge: If not even one training of a shape fits into memory.
        """
        make_current(self.context.device)
        shutil.rmtree(self.copies, ignore_errors=True)  # Of a trial that was killed.
        self.copies.mkdir(parents=True)
        options: Mapping[str, Any] = self.job.options
        tasks = [SegmentTask.read(path.parent) for path in self.job.waits_for]
        timings: list[StackTimings] = []
        for size in options["sizes"]:
            if self.context.should_stop():
                return False
            timings.append(self.measure(tasks[:size]))
            del tasks[:size]
        shutil.rmtree(self.copies)
        checkpoint.write_json(self.job.folder / TIMINGS, [asdict(measured) for measured in timings])
        return True

    def measure(self, tasks: Sequence[SegmentTask]) -> StackTimings:
        """Return the timings of stacks of `tasks`, which are of one shape, or only how many fit into memory.

        Trainings whose step raises an error are not stacked. Each of them then meets and reports it by itself.
        """
        try:
            return self.measure_stacks(tasks)
        except TooLarge:
            raise
        except Exception:  # A user's network or label family runs here, and may raise anything.
            traceback.print_exc()
            return StackTimings(step_seconds={}, max_size=1)

    def measure_stacks(self, tasks: Sequence[SegmentTask]) -> StackTimings:
        """Return the timings of stacks of `tasks`, or only how many fit into memory."""
        budget = self.job.options["memory_bytes"]
        if budget is None:
            budget = free_bytes(self.context.device)
        if not self.job.options["times_steps"]:
            return StackTimings(step_seconds={}, max_size=max_stack_size(tasks, self.copies, budget))
        return autotune(tasks, self.copies, budget, measure_step)


def make_work(job: Job, context: TrainingContext, memory: PeakMemory) -> PackTrial:
    """Return the trial that `job` describes."""
    return PackTrial(job, context)
