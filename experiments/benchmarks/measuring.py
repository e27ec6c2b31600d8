"""What every benchmark shares: alternating repetitions, medians, the machine's description, tables."""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def parser(description: str | None, repetitions: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes; results go to `--out`/<name>.md and .json."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repetitions", type=int, default=repetitions, help="of every side, in turn (%(default)s)")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (%(default)s)")
    return made


def alternating(sides: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """What each of `sides` measures, by name: one after another, round after round, so that all see the same machine."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repetitions):
        turn = list(sides)
        if number % 2:
            turn.reverse()  # whoever is first in a round has no advantage
        for name in turn:
            measured[name].append(sides[name]())
    return measured


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median, over rounds, of what one side measured over what the other did in the same round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def machine() -> dict[str, Any]:
    """CPU model, cores, how busy it already is, versions, date."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    can = torch.cpu.get_capabilities()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "bf16": [name for name in ("avx512_bf16", "amx_bf16", "bf16") if can.get(name)],
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; floats with three digits that count."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_shown(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)


def write(
    folder: Path,
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    notes: Sequence[str] = (),
    raw: object = None,
) -> None:
    """Print the table and write `folder`/`name`.md and .json; `about`: `machine()`, taken before the measurements."""
    command = shlex.join(["python", *sys.argv])
    described = ", ".join(f"{key} {value}" for key, value in about.items())
    text = "\n\n".join([f"# {title}", markdown(rows), *notes, f"`{command}`", described]) + "\n"
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    values = {"title": title, "command": command, "machine": about, "rows": rows, "notes": notes, "raw": raw}
    (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
