"""What a run's folder holds, whether the run is done or under way: whatever is not there yet is empty."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from partrain.data import Dataset
from partrain.partition.plan import Plan, SegmentPlan
from partrain.report.formatting import data_name
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
class Point:
    """Where a process was after `epoch` epochs. `loss` and `accuracy` are None where it never sees them."""

    epoch: float
    loss: float | None
    accuracy: float | None
    learning_rate: float | None


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of the run: a segment, a rank of a conventional strategy, or the recovery.

    `result`: its entry in results.json. `timeline`: start and end of every epoch, in seconds since 1970.
    """

    name: str
    task: dict[str, Any]
    rows: list[dict[str, str]]
    progress: dict[str, Any]
    result: dict[str, Any]
    timeline: list[tuple[float, float]]

    @classmethod
    def read(cls, folder: Path, name: str, result: dict[str, Any]) -> "Process":
        timeline = result.get("timeline") or _checkpoint(folder).get("timeline", [])
        return cls(
            name=name,
            task=checkpoint.read_found(folder / TASK_FILE),
            rows=_rows(folder / METRICS),
            progress=checkpoint.read_found(folder / PROGRESS),
            result=result,
            timeline=[(start, end) for start, end in timeline],
        )

    @property
    def device(self) -> str:
        return str(self.result.get("device") or self.task.get("device") or "")

    @property
    def label(self) -> str:
        return f"{self.name} · {self.device}" if self.device else self.name

    @property
    def done(self) -> float:
        """The share of its steps that is done."""
        if self.result:
            return 1.0
        return self.progress["step"] / max(1, self.progress["end"]) if self.progress else 0.0

    def points(self) -> list[Point]:
        """Every epoch's end, and where the process is now."""
        points = [
            Point(
                float(row["epoch"]),
                _number(row["loss"]),
                _number(row["decode_accuracy"]),
                _number(row["learning_rate"]),
            )
            for row in self.rows
        ]
        now = self.progress
        if now and self.rows and not self.result and now["step"] > sum(int(row["steps"]) for row in self.rows):
            epoch = now["step"] / int(self.rows[0]["steps"])
            points.append(Point(epoch, now["loss"], now["decode_accuracy"], None))
        return points


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, as its folder tells it. `results` and `evaluation` are empty until the run is done.

    `provenance`: of its data, as `Dataset.provenance` gives it; empty where the data set is not at hand either.
    """

    folder: Path
    provenance: dict[str, Any]
    config: dict[str, Any]
    plan: Plan | None
    results: dict[str, Any]
    evaluation: dict[str, Any]
    processes: list[Process]

    @classmethod
    def read(cls, folder: Path, dataset: Dataset | None = None) -> "RunRecord":
        config = folder / CONFIG
        results = checkpoint.read_found(folder / RESULTS)
        return cls(
            folder=folder,
            provenance=results.get("data") or (dataset.provenance() if dataset else {}),
            config=yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {},
            plan=_plan(checkpoint.read_found(folder / PLAN)),
            results=results,
            evaluation=checkpoint.read_found(folder / EVALUATION),
            processes=_processes(folder, results.get("segments", [])),
        )

    @property
    def segments(self) -> list[SegmentPlan]:
        return self.plan.segments if self.plan else []

    @property
    def parts(self) -> list[Process]:
        """The processes that trained the network, without its recovery."""
        return [process for process in self.processes if process.name != RECOVERY]

    @property
    def network(self) -> str:
        network = self.plan.network if self.plan else {}
        return str(network.get("name") or network.get("builder") or network.get("kind") or "network")

    @property
    def data(self) -> str:
        """The data set's name and split."""
        data = self.provenance or self.config.get("data", {})
        return data_name(data)

    @property
    def strategy(self) -> dict[str, Any]:
        """How the network is trained, as results.json or else config.yaml says; an uncut one end to end."""
        given = self.results.get("strategy") or self.config.get("strategy") or {"name": "synthetic"}
        return given | {"name": "end_to_end"} if len(self.segments) == 1 and given["name"] == "synthetic" else given

    @property
    def uses_codes(self) -> bool:
        """Whether boundaries carry codes; else activations and gradients cross them."""
        return bool(self.strategy["name"] == "synthetic")

    @property
    def strategy_label(self) -> str:
        name = str(self.strategy["name"])
        label = _STRATEGIES.get(name, name.replace("_", " "))
        if self.uses_codes:
            family = self.config.get("labels", {}).get("family")
            schedule = self.config.get("schedule", {}).get("name")
            return ", ".join(part for part in (f"{label} ({family})" if family else label, schedule) if part)
        return f"{label}, {self.strategy['microbatches']} microbatches" if name in _PIPELINES else label

    def boundaries(self) -> list[str]:
        """What boundary 1 … K carries: "codes, 512 (relu2)", …, "47 classes"."""
        kind = "codes" if self.uses_codes else "activations"
        between = [f"{kind}, {shape(segment.output_shape)} ({segment.stop})" for segment in self.segments[:-1]]
        return [*between, f"{self.plan.num_classes} classes"] if self.plan else []

    def devices(self, segment: SegmentPlan) -> str:
        """Where `segment` is trained: one device, or those of every process that holds a copy."""
        ends = (segment.start, segment.stop)
        devices = [p.device for p in self.parts if (p.task.get("start"), p.task.get("stop")) == ends]
        return ", ".join(f"{d} ×{devices.count(d)}" if devices.count(d) > 1 else d for d in dict.fromkeys(devices))

    def warnings(self) -> list[str]:
        """What about the cuts makes a good accuracy unlikely, and what went wrong in epochs."""
        cuts = self.plan.warnings() if self.plan and self.uses_codes else []
        if self.results:
            return cuts + list(self.results["warnings"])
        return cuts + [
            f"{process.name}: epoch {row['epoch']}: {row['warning']}"
            for process in self.processes
            for row in process.rows
            if row.get("warning")
        ]


def shape(sizes: list[int]) -> str:
    """[1, 28, 28] -> "1×28×28"."""
    return "×".join(map(str, sizes))


def _plan(values: dict[str, Any]) -> Plan | None:
    return Plan(**values | {"segments": [SegmentPlan(**each) for each in values["segments"]]}) if values else None


def _processes(folder: Path, results: list[dict[str, Any]]) -> list[Process]:
    processes = []
    for kind, name in ((SEGMENTS, "segment"), (RANKS, "process")):
        folders = sorted(
            (path.parent for path in (folder / kind).glob(f"*/{TASK_FILE}")), key=lambda path: int(path.name)
        )
        for position, each in enumerate(folders):
            result = results[position] if position < len(results) else {}
            processes.append(Process.read(each, f"{name} {each.name}", result))
    if (folder / RECOVERY / TASK_FILE).exists():
        processes.append(Process.read(folder / RECOVERY, RECOVERY, {}))
    return processes


def _checkpoint(folder: Path) -> dict[str, Any]:
    try:
        return dict(checkpoint.load_metadata(folder / CHECKPOINT))
    except (FileNotFoundError, checkpoint.DamagedFile):
        return {}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as text:
        return list(csv.DictReader(text))


def _number(text: str) -> float | None:
    return float(text) if text else None
