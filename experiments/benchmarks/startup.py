"""Seconds from the command to the first training step: `make train` with its defaults, data in the cache.

A segment writes its first progress.json right after its first step. The run is stopped once every segment has. The
stages are: the plan is written, the first segment has trained a step, every segment has.

    python experiments/benchmarks/startup.py
    python experiments/benchmarks/startup.py --repetitions 3 --overrides network=cnn partition.segments=3
"""

import os
import shlex
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from measuring import Report, machine_facts, make_parser

from partrain.data import prepare_data
from partrain.data.settings import Glyphs

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120  # seconds
LAST_STAGE = "every segment's first step"


def main() -> None:
    """Start the command several times, and write the report."""
    parser = make_parser(__doc__, repetitions=5)
    parser.add_argument("--overrides", nargs="*", default=[], help="settings for experiments/train.py")
    options = parser.parse_args()
    prepare_data(Glyphs())
    machine = machine_facts()
    measure_start(options.overrides)  # From now on the files of the libraries are in the page cache.
    starts = [measure_start(options.overrides) for _ in range(options.repetitions)]
    rows = [
        {
            "stage": stage,
            "median, s": statistics.median(start[stage] for start in starts),
            "least, s": min(start[stage] for start in starts),
            "most, s": max(start[stage] for start in starts),
        }
        for stage in starts[0]
    ]
    Report(
        name="startup",
        title="From command to first step",
        rows=rows,
        machine=machine,
        notes=["The aim: 3 s at most to the first step."],
        raw=starts,
    ).write(options.out)


def measure_start(overrides: list[str]) -> dict[str, float]:
    """Start the command in a new folder, and return the seconds until each stage."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["make", "train", f"ARGS={shlex.join([f'hydra.run.dir={run}', *overrides])}"]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        stages: dict[str, float] = {}
        try:
            while LAST_STAGE not in stages:
                seconds = time.perf_counter() - started
                if process.poll() is not None or seconds > TIMEOUT:
                    output = process.stdout.read() if process.stdout else ""
                    raise RuntimeError(
                        f"No segment trained a step within {seconds:.0f} s. The command printed: {output}"
                    )
                for stage in reached_stages(run):
                    stages.setdefault(stage, seconds)
                time.sleep(0.005)
        finally:
            os.killpg(process.pid, signal.SIGINT)  # As Ctrl-C on a terminal does.
            process.communicate(timeout=TIMEOUT)
    return stages


def reached_stages(run: Path) -> list[str]:
    """Return the stages that the run in this folder has reached, in their order."""
    stages = ["plan"] if (run / "plan.json").exists() else []
    has_stepped = [(folder / "progress.json").exists() for folder in run.glob("segments/*/")]
    if any(has_stepped):
        stages.append("first step")
    if has_stepped and all(has_stepped):
        stages.append(LAST_STAGE)
    return stages


if __name__ == "__main__":
    main()
