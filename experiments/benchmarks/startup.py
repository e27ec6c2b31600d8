"""Seconds from the command to the first training step: `experiments/train.py`, defaults, data cached.

A segment's first progress.json is written right after its first step; the run is then interrupted. Stages: the plan is
there, the first segment has trained a step, every segment has.

    python experiments/benchmarks/startup.py
    python experiments/benchmarks/startup.py --repetitions 3 --overrides network=cnn partition.segments=3
"""

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import machine, parser, write

from partrain.data import DataSettings, prepare_data

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds


def start(overrides: list[str]) -> dict[str, float]:
    """Seconds to each stage of one start."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "experiments" / "train.py"), f"hydra.run.dir={run}", *overrides]
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        stages: dict[str, float] = {}
        try:
            while "every segment's first step" not in stages:
                passed = time.perf_counter() - started
                if process.poll() is not None or passed > PATIENCE:
                    raise RuntimeError(f"no first step: {process.stdout.read() if process.stdout else ''}")
                if (run / "plan.json").exists():
                    stages.setdefault("plan", passed)
                stepped = [(each / "progress.json").exists() for each in run.glob("segments/*")]
                if any(stepped):
                    stages.setdefault("first step", passed)
                if stepped and all(stepped):
                    stages.setdefault("every segment's first step", passed)
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
    return stages


def main() -> None:
    options = parser(__doc__, repetitions=5)
    options.add_argument("--overrides", nargs="*", default=[], help="settings for experiments/train.py")
    given = options.parse_args()
    prepare_data(DataSettings())
    about = machine()
    start(given.overrides)  # the files of the libraries are then in the page cache
    found = [start(given.overrides) for _ in range(given.repetitions)]
    rows = [
        {
            "stage": stage,
            "median, s": statistics.median(each[stage] for each in found),
            "least, s": min(each[stage] for each in found),
            "most, s": max(each[stage] for each in found),
        }
        for stage in found[0]
    ]
    write(given.out, "startup", "From command to first step", rows, about, ["The aim: 8 s at most."], found)


if __name__ == "__main__":
    main()
