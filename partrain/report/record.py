"""A run as its pages show it, read from the files in the run's folder.

A run that is still training has a record too: what its files do not hold yet is empty.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.partition.plan import Plan, SegmentPlan
from partrain.report.formatting import dataset_name, format_shape
from partrain.storage import checkpoint
from partrain.storage.run_folder import (
    CHECKPOINT,
    CONFIG,
    EVALUATION,
    METRICS,
    PLAN,
    PROGRESS,
    RANKS,
    RECOVERY,
    RESULTS,
    SEGMENTS,
    TASK_FILE,
)

_PIPELINES = {"gpipe": "GPipe pipeline", "1f1b": "1F1B pipeline"}
_STRATEGIES = {"synthetic": "synthetic labels"} | _PIPELINES


@dataclass(frozen=True)
class CurvePoint:
    """A point of a process's training curves. Values that the process never sees are None."""

    epoch: float
    """The number of epochs done. It has a fraction during an epoch."""
    loss: float | None
    accuracy: float | None
    """The decode accuracy, from 0 to 1."""
    learning_rate: float | None


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """One process of a run: a segment, a rank of a conventional strategy, or the recovery."""

    name: str
    task: dict[str, Any]
    """The contents of task.json."""
    metrics: list[dict[str, str]]
    """The rows of metrics.csv, one per epoch that has ended."""
    progress: dict[str, Any]
    """The contents of progress.json."""
    result: dict[str, Any]
    """The process's entry in results.json, or empty before the run has finished."""
    timeline: list[tuple[float, float]]
    """The start and end of every epoch, in seconds since 1970."""

    @classmethod
    def read(cls, folder: Path, name: str, result: dict[str, Any]) -> "ProcessRecord":
        """Read the record of the process called `name` from its `folder`. `result` is its entry in results.json."""
        timeline = result.get("timeline") or _checkpoint_metadata(folder).get("timeline", [])
        return cls(
            name=name,
            task=checkpoint.read_json_or_empty(folder / TASK_FILE),
            metrics=_read_rows(folder / METRICS),
            progress=checkpoint.read_json_or_empty(folder / PROGRESS),
            result=result,
            timeline=[(start, end) for start, end in timeline],
        )

    @property
    def device(self) -> str:
        """Return the name of the device that the process trains on, or an empty text if no file names it."""
        return str(self.result.get("device") or self.task.get("device") or "")

    @property
    def label(self) -> str:
        """Return the process's name and device, as figures show it."""
        return f"{self.name} · {self.device}" if self.device else self.name

    @property
    def fraction_done(self) -> float:
        """Return the fraction of the process's steps that are done, from 0 to 1."""
        if self.result:
            return 1.0
        if not self.progress:
            return 0.0
        return self.progress["step"] / max(1, self.progress["end"])

    @property
    def is_within_epoch(self) -> bool:
        """Return whether the process is training and has done more steps than its metrics cover."""
        if self.result or not self.progress or not self.metrics:
            return False
        return self.progress["step"] > sum(int(row["steps"]) for row in self.metrics)

    def curve(self) -> list[CurvePoint]:
        """Return a point for every epoch that has ended, and one for the present epoch if it has begun."""
        points = [
            CurvePoint(
                float(row["epoch"]),
                _optional_float(row["loss"]),
                _optional_float(row["decode_accuracy"]),
                _optional_float(row["learning_rate"]),
            )
            for row in self.metrics
        ]
        if self.is_within_epoch:
            epoch = self.progress["step"] / int(self.metrics[0]["steps"])
            points.append(CurvePoint(epoch, self.progress["loss"], self.progress["decode_accuracy"], None))
        return points

    def warnings(self) -> list[str]:
        """Return the warnings of the epochs that have ended, with the process's name."""
        return [f"{self.name}: epoch {row['epoch']}: {row['warning']}" for row in self.metrics if row.get("warning")]

    @property
    def test_decode_accuracy(self) -> float | None:
        """Return how often the process's boundary decodes rightly on the test images, from 0 to 1, if that is known."""
        return self.result.get("decode_accuracy") if self.metrics else None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, read from the files in its folder.

    Attributes:
        folder: The run's folder.
        provenance: The provenance of its data (`Dataset.provenance`), or empty if the data set is not at hand.
        config: The contents of config.yaml.
        plan: The contents of plan.json, or None before there is a plan.
        results: The contents of results.json, or empty before the run has finished.
        evaluation: The contents of evaluation.json, or empty before the run has finished.
        processes: The processes that train the network, and after them its recovery if there is one.
    """

    folder: Path
    provenance: dict[str, Any]
    config: dict[str, Any]
    plan: Plan | None
    results: dict[str, Any]
    evaluation: dict[str, Any]
    processes: list[ProcessRecord]

    @classmethod
    def read(cls, folder: Path, dataset: Dataset | None = None) -> "RunRecord":
        """Read the record of the run in `folder`. `dataset` gives the provenance until results.json does."""
        config = folder / CONFIG
        results = checkpoint.read_json_or_empty(folder / RESULTS)
        return cls(
            folder=folder,
            provenance=results.get("data") or (dataset.provenance() if dataset else {}),
            config=yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {},
            plan=_read_plan(folder / PLAN),
            results=results,
            evaluation=checkpoint.read_json_or_empty(folder / EVALUATION),
            processes=list(_read_processes(folder, results.get("segments", []))),
        )

    @property
    def segments(self) -> list[SegmentPlan]:
        """Return the plans of the segments, or an empty list before there is a plan."""
        return self.plan.segments if self.plan else []

    @property
    def training_processes(self) -> list[ProcessRecord]:
        """Return the processes that train the network, without its recovery."""
        return [process for process in self.processes if process.name != RECOVERY]

    @property
    def network(self) -> str:
        """Return the name of the network, e.g. "mlp" or "resnet18"."""
        network = self.plan.network if self.plan else {}
        return str(network.get("name", "network"))

    @property
    def data(self) -> str:
        """Return the name and split of the data set, e.g. "emnist bymerge"."""
        return dataset_name(self.provenance or self.config.get("data", {}))

    @property
    def strategy(self) -> dict[str, Any]:
        """Return the strategy's settings, with the name "end_to_end" for an uncut network."""
        strategy = self.results.get("strategy") or self.config.get("strategy") or {"name": "synthetic"}
        is_uncut = len(self.segments) == 1 and strategy["name"] == "synthetic"
        return {"name": "end_to_end"} if is_uncut else strategy

    @property
    def uses_codes(self) -> bool:
        """Return whether boundaries carry synthetic codes. Otherwise activations and gradients cross them."""
        return bool(self.strategy["name"] == "synthetic")

    @property
    def strategy_label(self) -> str:
        """Return the strategy in words, e.g. "synthetic labels (simplex), parallel"."""
        name = str(self.strategy["name"])
        label = _STRATEGIES.get(name, name.replace("_", " "))
        if name in _PIPELINES:
            return f"{label}, {self.strategy['microbatches']} microbatches"
        if not self.uses_codes:
            return label
        labels = self.config.get("labels", {})
        family = labels.get("name") or labels.get("family")  # The name in format 1.
        schedule = self.config.get("schedule", {}).get("name")
        return ", ".join(part for part in (f"{label} ({family})" if family else label, schedule) if part)

    def boundary_labels(self) -> list[str]:
        """Return what boundaries 1 to K carry: "codes, 512 (relu2)", …, "47 classes"; or nothing before the plan."""
        if not self.plan:
            return []
        content = "codes" if self.uses_codes else "activations"
        inner = [f"{content}, {format_shape(segment.output_shape)} ({segment.stop})" for segment in self.segments[:-1]]
        return [*inner, f"{self.plan.num_classes} classes"]

    def device_label(self, segment: SegmentPlan) -> str:
        """Return the devices of the processes that train `segment`, e.g. "cpu" or "cpu ×2"."""
        ends = (segment.start, segment.stop)
        devices = [
            process.device
            for process in self.training_processes
            if (process.task.get("start"), process.task.get("stop")) == ends
        ]
        counts = {device: devices.count(device) for device in devices}
        return ", ".join(f"{device} ×{count}" if count > 1 else device for device, count in counts.items())

    def warnings(self) -> list[str]:
        """Return the warnings about the cuts, and those of the training so far."""
        about_cuts = self.plan.warnings() if self.plan and self.uses_codes else []
        if self.results:
            return about_cuts + list(self.results["warnings"])
        return [*about_cuts, *chain.from_iterable(process.warnings() for process in self.processes)]


def _read_plan(path: Path) -> Plan | None:
    try:
        return Plan.read(path)
    except (FileNotFoundError, UserError):
        return None


def _read_processes(folder: Path, results: list[dict[str, Any]]) -> Iterator[ProcessRecord]:
    """Yield the processes of the run in `folder`, in order. `results` are their entries in results.json, if any."""
    for kind, name in ((SEGMENTS, "segment"), (RANKS, "process")):
        tasks = (folder / kind).glob(f"*/{TASK_FILE}")
        process_folders = sorted((task.parent for task in tasks), key=lambda path: int(path.name))
        for position, process_folder in enumerate(process_folders):
            result = results[position] if position < len(results) else {}
            yield ProcessRecord.read(process_folder, f"{name} {process_folder.name}", result)
    if (folder / RECOVERY / TASK_FILE).exists():
        yield ProcessRecord.read(folder / RECOVERY, RECOVERY, {})


def _checkpoint_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of the checkpoint in `folder`, or nothing if it is missing or damaged."""
    try:
        return dict(checkpoint.load_metadata(folder / CHECKPOINT))
    except (FileNotFoundError, checkpoint.DamagedFile):
        return {}


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, or nothing if it does not exist."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as text:
        return list(csv.DictReader(text))


def _optional_float(text: str) -> float | None:
    return float(text) if text else None
