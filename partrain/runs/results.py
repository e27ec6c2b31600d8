"""The contents of results.json: the facts of a finished run that a script may need."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from partrain.device import is_cpu, num_cores
from partrain.partition.plan import Plan, SegmentPlan
from partrain.runs.prepare import PreparedRun
from partrain.runs.timing import recorded_groupings
from partrain.stitching.evaluate import Evaluation
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, RECOVERY, SEGMENTS
from partrain.training.progress import Progress
from partrain.training.task import SegmentTask

_MEMORY = ("peak_memory_bytes", "parameter_bytes", "optimizer_state_bytes")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of training and evaluating the network of a run."""

    evaluation: Evaluation
    held_out: Evaluation | None
    """The evaluation on the held-out images, if there are any."""
    before_recovery: Evaluation | None
    """The evaluation before the recovery epochs, if there were any."""
    seconds: float
    """Seconds from the start of the first process to the end of training, over all times that the run was started."""
    accuracy_curve: list[dict[str, float]]
    """The test accuracy of the whole network over time. `time` is in seconds since 1970."""


def gather_results(run: PreparedRun, outcome: Outcome) -> dict[str, Any]:
    """Return the contents of results.json. Accuracies are fractions; memory and traffic are in bytes.

    `train_seconds` counts from the start of the first process to the end of training, with the recovery. `step_seconds`
    counts the steps alone. `samples_per_second` counts every image once an epoch, however many processes trained on it.
    These two are of the segments alone. The recovery has an entry of its own. The accuracy curve counts seconds from the
    first step.
    """
    trainings = _FinishedTrainings.read(run)
    return {
        **_accuracies(outcome, trainings.first_step_time()),
        "train_seconds": outcome.seconds,
        "step_seconds": trainings.step_seconds(),
        "samples_per_second": trainings.num_steps() * run.settings.train.batch_size / trainings.step_seconds(),
        "segments": _part_results(trainings, outcome.before_recovery or outcome.evaluation),
        "steps": trainings.num_steps(),
        "recovery": _recovery_results(trainings),
        "devices": _memory_by_device(trainings),
        "traffic_bytes": trainings.traffic_bytes(),
        "traffic_bytes_per_step": trainings.traffic_bytes_per_step(),
        "utilization": trainings.utilization(),
        "data": outcome.evaluation.data,
        **_settings_fields(run),
        "warnings": [*_warnings(trainings.progress), *_grouping_warning(run)],
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's results."""
    packages = ("partrain", "torch", "torchvision", "numpy", "hydra-core")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


@dataclass(frozen=True, kw_only=True)
class _FinishedTrainings:
    """The trainings of a run, all finished, with what each one's checkpoint reports of it."""

    run: PreparedRun
    progress: dict[str, Progress]
    """The progress by the training's name."""

    @classmethod
    def read(cls, run: PreparedRun) -> "_FinishedTrainings":
        """Read the checkpoints of the trainings of `run`."""
        paths = {name: run.folder / name / CHECKPOINT for name in run.tasks}
        progress = {name: Progress(**checkpoint.load_metadata(path)) for name, path in paths.items()}
        for name, values in progress.items():
            values.device = values.device or run.tasks[name].device  # Older versions did not record it.
        return cls(run=run, progress=progress)

    def parts(self) -> dict[str, Progress]:
        """Return the progress of the trainings whose weights make up the network, by name."""
        return {name: self.progress[name] for name in self.run.part_names()}

    def first_step_time(self) -> float:
        """Return when the first step of any part began, in seconds since 1970."""
        epoch_starts: list[float] = []
        for progress in self.parts().values():
            epoch_starts += [start for start, _ in progress.timeline]
        return min(epoch_starts, default=0.0)

    def step_seconds(self) -> float:
        """Return how long the steps of all parts took, see `step_seconds`."""
        return step_seconds(list(self.parts().values()))

    def num_steps(self) -> int:
        """Return the number of steps that the settings plan for each part."""
        train = self.run.settings.train
        first_task = next(iter(self.run.tasks.values()))
        return train.epochs * (first_task.num_images // train.batch_size)

    def traffic_bytes(self) -> int | None:
        """Return the bytes that left a process over a connection or, in the sequential schedule, in a file.

        Bytes that move between accelerators are not seen by the kernel, which counts all others: None for a group there.
        """
        is_counted = all(is_cpu(progress.device) for progress in self.progress.values())
        if self.run.settings.strategy.is_group and not is_counted:
            return None
        return sum(progress.stored_bytes + progress.sent_bytes for progress in self.progress.values())

    def traffic_bytes_per_step(self) -> float | None:
        """Return the traffic divided by the number of steps, or None if it is unknown."""
        traffic = self.traffic_bytes()
        return None if traffic is None else traffic / self.num_steps()

    def utilization(self) -> float | None:
        """Return the parts' CPU time as a fraction of all cores' while they trained, or None if not all are on a CPU."""
        if not all(is_cpu(progress.device) for progress in self.parts().values()):
            return None
        cpu_seconds = sum(progress.cpu_seconds for progress in self.parts().values())
        return cpu_seconds / (self.step_seconds() * num_cores())


def step_seconds(parts: Sequence[Progress]) -> float:
    """Return how long the steps of several trainings took, without the pauses in which checkpoints are written.

    If all trained at the same time, it is the time of the slowest. Otherwise, as with more segments than cores, it is
    the time in which at least one of them trained:

        a  ████████
        b      ██████
        c                 ████
           ^---------^    ^--^   counted
    """
    spans = sorted((progress.timeline[0][0], progress.timeline[0][0] + progress.seconds) for progress in parts)
    if max(start for start, _ in spans) < min(end for _, end in spans):
        return max(progress.seconds for progress in parts)

    total, counted_until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, counted_until))
        counted_until = max(counted_until, end)
    return total


# ---- The entries of results.json.


def _accuracies(outcome: Outcome, first_step_time: float) -> dict[str, Any]:
    """Return the entries on the accuracy of the whole network."""
    before = outcome.before_recovery
    return {
        "test_accuracy": outcome.evaluation.top1,
        "top5_accuracy": outcome.evaluation.top5,
        "test_accuracy_before_recovery": before.top1 if before else None,
        "test_loss": outcome.evaluation.loss,
        "validation_accuracy": outcome.held_out.top1 if outcome.held_out else None,
        "validation_loss": outcome.held_out.loss if outcome.held_out else None,
        "accuracy_curve": [
            {"seconds": point["time"] - first_step_time, "test_accuracy": point["test_accuracy"]}
            for point in outcome.accuracy_curve
        ],
    }


def _part_results(trainings: _FinishedTrainings, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return an entry for each part, with the decode accuracy at its end where it ends at a boundary."""
    run = trainings.run
    strategy, plan, parts = run.settings.strategy, run.plan, trainings.parts()
    segments: Iterable[SegmentPlan] = plan.segments
    if strategy.has_replicas:
        segments = [plan.segments[0]] * len(parts)

    entries = []
    for number, (segment, (name, progress)) in enumerate(zip(segments, parts.items(), strict=True)):
        decode_accuracy = None if strategy.is_group else evaluation.boundaries[number]
        entry = _training_entry(segment, run.tasks[name], progress, decode_accuracy)
        if trainings.traffic_bytes() is None:
            entry |= {"sent_bytes": None, "received_bytes": None}
        entries.append(entry)
    return entries


def _recovery_results(trainings: _FinishedTrainings) -> dict[str, Any] | None:
    """Return the entry for the recovery, if there was one."""
    run = trainings.run
    if not run.has_recovery:
        return None
    return _training_entry(_whole_network(run.plan), run.tasks[RECOVERY], trainings.progress[RECOVERY], None)


def _whole_network(plan: Plan) -> SegmentPlan:
    """Return a segment that has all layers and parameters of the network. Its other fields are not meaningful."""
    layers: list[str] = []
    for segment in plan.segments:
        layers += segment.layers
    return replace(plan.segments[0], layers=layers, parameters=sum(segment.parameters for segment in plan.segments))


def _training_entry(
    segment: SegmentPlan, task: SegmentTask, progress: Progress, decode_accuracy: float | None
) -> dict[str, Any]:
    """Return the entry for one training: its part of the network, what it took, and its decode accuracy."""
    thread_seconds = progress.thread_seconds if is_cpu(progress.device) else 0
    return {
        "index": task.index,
        "layers": segment.layers,
        "parameters": segment.parameters,
        "parameter_bytes": progress.parameter_bytes,
        "optimizer_state_bytes": progress.optimizer_state_bytes,
        "device": progress.device,
        "host": progress.host,
        "processor": progress.processor,
        "epochs": len(progress.epochs),
        "stopped_early": progress.stopped_early,
        "train_seconds": progress.seconds,
        "samples_per_second": progress.step * task.train.batch_size / progress.seconds,
        "utilization": progress.cpu_seconds / thread_seconds if thread_seconds else None,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "sent_bytes": progress.sent_bytes,
        "received_bytes": progress.received_bytes,
        "decode_accuracy": decode_accuracy,
        "timeline": progress.timeline,
    }


def _memory_by_device(trainings: _FinishedTrainings) -> dict[str, dict[str, int | None]]:
    """Return the bytes of each kind of memory, by device, summed over the trainings on it; None where one is unknown."""
    memory_by_device: dict[str, dict[str, int | None]] = {}
    for progress in trainings.progress.values():
        memory = memory_by_device.setdefault(progress.device, dict.fromkeys(_MEMORY, 0))
        for key in _MEMORY:
            total, part = memory[key], getattr(progress, key)
            memory[key] = None if total is None or part is None else total + part
    return memory_by_device


def _settings_fields(run: PreparedRun) -> dict[str, Any]:
    """Return the entries that repeat the settings of the run."""
    settings = run.settings
    precision = next(iter(run.tasks.values())).train.precision
    return {
        "network": run.plan.network,
        "cuts": run.plan.cuts,
        "strategy": {"name": "end_to_end"} if run.is_end_to_end else asdict(settings.strategy),
        "labels": asdict(settings.labels),
        "schedule": asdict(settings.schedule),
        "train": asdict(settings.train) | {"precision": precision},
        "grouping": asdict(settings.grouping),
        "launch": {"name": settings.launch.name, "threads": settings.launch.threads, "cores": num_cores()},
        "seed": settings.seed,
    }


def _warnings(progress_by_name: Mapping[str, Progress]) -> list[str]:
    """Return the warnings of all epochs, each with its training and epoch."""
    warnings = []
    for name, progress in progress_by_name.items():
        for row in progress.epochs:
            if row["warning"]:
                warnings.append(f"{name}: epoch {row['epoch']}: {row['warning']}")
    return warnings


def _grouping_warning(run: PreparedRun) -> list[str]:
    """Return the warning that the run went on in another grouping, if it did."""
    names = recorded_groupings(run.folder / SEGMENTS)
    if len(names) < 2:
        return []
    return [f"the run trained with grouping={', then '.join(names)}: the last bits of its weights depend on when"]
