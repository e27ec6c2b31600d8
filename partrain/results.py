"""results.json: the facts of a run that a script may need."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from partrain import checkpoint
from partrain.evaluate import Evaluation
from partrain.launch.placement import num_cores
from partrain.optimization import resolve_precision
from partrain.partition import Plan, SegmentPlan
from partrain.progress import Progress
from partrain.segment import CHECKPOINT
from partrain.settings import RunSettings
from partrain.task import SegmentTask


def gather_results(
    settings: RunSettings,
    plan: Plan,
    tasks: dict[str, SegmentTask],
    folder: Path,
    result: Evaluation,
    before: Evaluation | None,
    seconds: float,
) -> dict[str, Any]:
    """What results.json says of the run in `folder`.

    `before`: the evaluation before recovery epochs, if there were any. `seconds`: from the first segment's start to
    the end of training. Fractions for accuracies, bytes for memory and traffic.
    """
    progress = {name: Progress(**checkpoint.load_metadata(folder / name / CHECKPOINT)) for name in tasks}
    first = tasks["segments/0"]
    precision = resolve_precision(settings.train.precision, torch.device(first.device))
    return {
        "test_accuracy": result.top1,
        "top5_accuracy": result.top5,
        "test_accuracy_before_recovery": before.top1 if before else None,
        "train_seconds": seconds,
        "segments": [
            _segment(segment, tasks[name], progress[name], (before or result).boundaries[segment.index])
            for segment in plan.segments
            for name in [f"segments/{segment.index}"]
        ],
        "traffic_bytes": sum(done.stored_bytes for done in progress.values()),
        "data": result.data,
        "network": plan.network,
        "cuts": [segment.stop for segment in plan.segments if segment.stop is not None],
        "labels": asdict(settings.labels),
        "schedule": asdict(settings.schedule),
        "train": asdict(settings.train) | {"precision": precision},
        "launch": {"threads": settings.launch.threads, "cores": num_cores()},
        "seed": settings.seed,
        "warnings": [
            f"{name}: epoch {row['epoch']}: {row['warning']}"
            for name, done in progress.items()
            for row in done.epochs
            if row["warning"]
        ],
        "versions": {name: version(name) for name in ("partrain", "torch", "torchvision", "numpy", "hydra-core")}
        | {"python": platform.python_version()},
    }


def _segment(segment: SegmentPlan, task: SegmentTask, progress: Progress, decode_accuracy: float) -> dict[str, Any]:
    return {
        "index": segment.index,
        "layers": segment.layers,
        "parameters": segment.parameters,
        "device": task.device,
        "epochs": len(progress.epochs),
        "stopped_early": progress.stopped_early,
        "train_seconds": progress.seconds,
        "samples_per_second": progress.step * task.train.batch_size / progress.seconds,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "decode_accuracy": decode_accuracy,
    }
