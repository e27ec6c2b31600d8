"""Tools that all benchmarks share: sides measured in turn, ratios of medians, the machine's description, reports."""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
"""The folder of the results in the repository."""


def make_parser(description: str | None, repetitions: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has. `repetitions` is the default of `--repetitions`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repetitions", type=int, default=repetitions, help="how often each side is measured, in turn (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (%(default)s)")
    return parser


def measure_in_turn(sides: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Measure the sides one after another, round after round, so that all meet the same state of the machine.

    Args:
        sides: Functions that measure, by the name of the side.
        repetitions: Number of rounds.

    Returns:
        The measurements of each side, one for each round.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repetitions):
        names = list(sides)
        if number % 2:
            names.reverse()  # No side has the advantage of being first in every round.
        for name in names:
            measured[name].append(sides[name]())
    return measured


def seconds_of(action: Callable[[], object]) -> float:
    """Return how long `action` takes, in seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median over rounds of one side's measurement over the other's in the same round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def machine_facts() -> dict[str, Any]:
    """Return the model of the CPU, the number of cores, the present load, versions and the date."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "bf16": [name for name in ("avx512_bf16", "amx_bf16", "bf16") if capabilities.get(name)],
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    """Return the CPU's model as Linux gives it, or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, with floats to three significant digits."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_format_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _format_cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of a benchmark.

    Attributes:
        name: Name of the files, without their endings.
        title: Title of the page.
        rows: Rows of the table, by column.
        machine: `machine_facts()`, called before the measurements.
        notes: Sentences below the table.
        raw: All measurements, for the JSON file.
    """

    name: str
    title: str
    rows: Sequence[Mapping[str, Any]]
    machine: Mapping[str, Any]
    notes: Sequence[str]
    raw: object

    def write(self, folder: Path) -> None:
        """Print the table and the notes, and write them to `folder` as Markdown and as JSON."""
        command = shlex.join(["python", *sys.argv])
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        paragraphs = [f"# {self.title}", markdown_table(self.rows), *self.notes, f"`{command}`", machine]
        text = "\n\n".join(paragraphs) + "\n"
        print(text)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(text, encoding="utf-8")
        values = {
            "title": self.title,
            "command": command,
            "machine": self.machine,
            "rows": self.rows,
            "notes": self.notes,
            "raw": self.raw,
        }
        (folder / f"{self.name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
