"""results.json: the facts of a run that a script may need."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from partrain.device import num_cores
from partrain.partition.plan import Plan, SegmentPlan
from partrain.settings import RunSettings
from partrain.stitching.evaluate import Evaluation
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, RECOVERY
from partrain.strategies.settings import REPLICAS
from partrain.training.optimization import resolve_precision
from partrain.training.progress import Progress
from partrain.training.task import SegmentTask

_MEMORY = ("peak_memory_bytes", "parameter_bytes", "optimizer_state_bytes")


@dataclass(frozen=True)
class Outcome:
    """What training came to: the network's evaluation, also `before` recovery epochs if there were any; the `seconds`
    of training with the start of its processes; and its `accuracy_curve`.
    """

    result: Evaluation
    before: Evaluation | None
    seconds: float
    curve: list[dict[str, float]]


def gather_results(
    settings: RunSettings,
    plan: Plan,
    tasks: Mapping[str, SegmentTask],
    folder: Path,
    outcome: Outcome,
) -> dict[str, Any]:
    """What results.json says of the run in `folder`. Fractions for accuracies, bytes for memory and traffic.

    `train_seconds`: from the first process's start to the end of training; `step_seconds`: of its steps. The seconds of
    the accuracy curve are from the first step. `samples_per_second`: of the whole training, every image counted once an
    epoch however many processes saw it. Both are of the segments: recovery epochs are a process of their own, `recovery`.
    """
    result, before = outcome.result, outcome.before
    progress = {name: Progress(**checkpoint.load_metadata(folder / name / CHECKPOINT)) for name in tasks}
    parts = {name: done for name, done in progress.items() if name != RECOVERY}
    precision = resolve_precision(settings.train.precision, torch.device(next(iter(tasks.values())).device))
    started = min((span[0] for done in parts.values() for span in done.timeline), default=0.0)
    seconds = step_seconds(list(parts.values()))
    steps = settings.train.epochs * (next(iter(tasks.values())).num_images // settings.train.batch_size)
    held = plan.segments * len(parts) if settings.strategy.name in REPLICAS else plan.segments
    traffic = _traffic(list(progress.values())) if _traffic_is_seen(settings, tasks) else None
    evaluated = before or result
    return {
        "test_accuracy": result.top1,
        "top5_accuracy": result.top5,
        "test_accuracy_before_recovery": before.top1 if before else None,
        "accuracy_curve": [
            {"seconds": point["time"] - started, "test_accuracy": point["test_accuracy"]} for point in outcome.curve
        ],
        "train_seconds": outcome.seconds,
        "step_seconds": seconds,
        "samples_per_second": steps * settings.train.batch_size / seconds,
        "segments": [
            _process(segment, tasks[name], done, None if settings.strategy.is_group else evaluated.boundaries[number])
            | ({} if traffic is not None else {"sent_bytes": None, "received_bytes": None})
            for number, (segment, (name, done)) in enumerate(zip(held, parts.items(), strict=True))
        ],
        "steps": steps,
        "recovery": _process(_whole(plan), tasks[RECOVERY], progress[RECOVERY], None) if before else None,
        "devices": _devices(tasks, progress),
        "traffic_bytes": traffic,
        "traffic_bytes_per_step": None if traffic is None else traffic / steps,
        "utilization": _utilization(parts, [tasks[name].device for name in parts], seconds),
        "data": result.data,
        "network": plan.network,
        "cuts": plan.cuts,
        "strategy": asdict(settings.strategy),
        "labels": asdict(settings.labels),
        "schedule": asdict(settings.schedule),
        "train": asdict(settings.train) | {"precision": precision},
        "launch": {"name": settings.launch.name, "threads": settings.launch.threads, "cores": num_cores()},
        "seed": settings.seed,
        "warnings": _warnings(progress),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what a run is done with."""
    packages = ("partrain", "torch", "torchvision", "numpy", "hydra-core")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def _warnings(progress: Mapping[str, Progress]) -> list[str]:
    return [
        f"{name}: epoch {row['epoch']}: {row['warning']}"
        for name, done in progress.items()
        for row in done.epochs
        if row["warning"]
    ]


def _whole(plan: Plan) -> SegmentPlan:
    """The network in one piece, of which layers and parameters are told."""
    layers = [name for segment in plan.segments for name in segment.layers]
    return replace(plan.segments[0], layers=layers, parameters=sum(segment.parameters for segment in plan.segments))


def _devices(tasks: Mapping[str, SegmentTask], progress: Mapping[str, Progress]) -> dict[str, dict[str, int]]:
    """Bytes per device: of the processes that were on it, together."""
    found: dict[str, dict[str, int]] = {}
    for name, done in progress.items():
        device = found.setdefault(tasks[name].device, dict.fromkeys(_MEMORY, 0))
        for key in _MEMORY:
            device[key] += getattr(done, key)
    return found


def _traffic(parts: Sequence[Progress]) -> int:
    """Bytes that left a process over a connection or, in the sequential schedule, in a file."""
    return sum(done.stored_bytes + done.sent_bytes for done in parts)


def _traffic_is_seen(settings: RunSettings, tasks: Mapping[str, SegmentTask]) -> bool:
    """NCCL moves bytes between GPUs past the kernel, which counts the others."""
    return not settings.strategy.is_group or all(task.device == "cpu" for task in tasks.values())


def step_seconds(parts: Sequence[Progress]) -> float:
    """How long the steps of all processes took, without the pauses in which checkpoints are written.

    Processes that trained at the same time count once: the slowest, if all of them did; else, as with more segments
    than cores, from when the first began to when the last ended.
    """
    spans = sorted((done.timeline[0][0], done.timeline[0][0] + done.seconds) for done in parts)
    if max(start for start, _ in spans) < min(end for _, end in spans):
        return max(done.seconds for done in parts)
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _utilization(parts: Mapping[str, Progress], devices: list[str], seconds: float) -> float | None:
    """The processes' CPU time over what all cores had while they trained; None where another device computes."""
    if set(devices) != {"cpu"}:
        return None
    return sum(done.cpu_seconds for done in parts.values()) / (seconds * num_cores())


def _process(
    segment: SegmentPlan, task: SegmentTask, progress: Progress, decode_accuracy: float | None
) -> dict[str, Any]:
    """One process of the training: what it held, what it took, and what its output decodes to where it has a boundary."""
    threads = progress.thread_seconds if task.device == "cpu" else 0
    return {
        "index": task.index,
        "layers": segment.layers,
        "parameters": segment.parameters,
        "parameter_bytes": progress.parameter_bytes,
        "optimizer_state_bytes": progress.optimizer_state_bytes,
        "device": task.device,
        "epochs": len(progress.epochs),
        "stopped_early": progress.stopped_early,
        "train_seconds": progress.seconds,
        "samples_per_second": progress.step * task.train.batch_size / progress.seconds,
        "utilization": progress.cpu_seconds / threads if threads else None,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "sent_bytes": progress.sent_bytes,
        "received_bytes": progress.received_bytes,
        "decode_accuracy": decode_accuracy,
        "timeline": progress.timeline,
    }
