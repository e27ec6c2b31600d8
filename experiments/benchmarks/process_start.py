"""What it costs to start segments' processes: forked from the zygote, and started anew.

- six segments at once: seconds from the request for the first to the last one's first step; their memory together (PSS,
  with the zygote's) and the CPU seconds of each up to its first step;
- a run of 64 segments with one epoch each: CPU seconds of all processes, and how many of these are training;
- a training of about 200 MB: the peak memory that its results report.

    python experiments/benchmarks/process_start.py
    python experiments/benchmarks/process_start.py --repetitions 1 --segments 8
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Report, machine_facts, make_parser

import partrain
from partrain.data.settings import Glyphs
from partrain.launch.launcher import Launcher
from partrain.launch.processes import ProcessHandle
from partrain.launch.zygote import shared_zygote
from partrain.networks import MLP
from partrain.runs.jobs import JobPlanner
from partrain.runs.prepare import prepare_run
from partrain.settings import Alone
from partrain.training.optimization import TrainSettings

WAYS = ("fork", "fresh")
SEGMENTS_AT_ONCE = 6
POLL_SECONDS = 0.002
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure all in turn, and write the report."""
    options = parse_options()
    partrain.prepare_data(Glyphs())
    machine = machine_facts()
    measure(options, "fork")  # From now on the zygote runs, and files are in the page cache.
    rounds = [{way: measure(options, way) for way in WAYS} for _ in range(options.repetitions)]
    rows = [
        {
            "what": what,
            **{way: statistics.median(measured[way][what] for measured in rounds) for way in WAYS},
            "fork / fresh": statistics.median(one["fork"][what] / one["fresh"][what] for one in rounds),
        }
        for what in rounds[0]["fork"]
    ]
    Report(
        name="process_start",
        title="Processes forked from the zygote, and started anew",
        rows=rows,
        machine=machine,
        notes=[
            f"The aims, forked: at most 2 s, half of the memory, 0.4 CPU seconds; {options.segments} segments with at "
            "most 30 CPU seconds; peak memory within 5 %."
        ],
        raw=rounds,
    ).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=5)
    parser.add_argument("--segments", type=int, default=64, help="segments of the run of many (%(default)s)")
    return parser.parse_args()


def measure(options: argparse.Namespace, way: str) -> dict[str, float]:
    """Return all measurements of processes that start in one way."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            **start_at_once(Path(folder) / "at_once", way),
            **train_many(Path(folder) / "many", way, options.segments),
            "peak memory of a training, MB": peak_memory(Path(folder) / "large", way),
        }


def settings_of(way: str, segments: int, **changed: Any) -> partrain.RunSettings:
    """Return the settings of a run on the CPU, with one thread for each process."""
    return partrain.RunSettings(
        partition=partrain.PartitionSettings(segments=segments),
        launch=partrain.Local(device="cpu", threads=1, processes=way),
        report=partrain.ReportSettings(page=False),
        **changed,
    )


def start_at_once(folder: Path, way: str) -> dict[str, float]:
    """Start all segments of a network at once, and return what that takes until each has trained a step."""
    settings = settings_of(way, SEGMENTS_AT_ONCE)
    launcher = Launcher(settings.launch)
    prepared = prepare_run(settings, folder, launcher=launcher)
    prepared.write()
    jobs = JobPlanner(grouping=Alone(), launcher=launcher).plan(prepared.unfinished_segments(), folder)
    for job in jobs:
        job.write()
    began, zygote_cpu = time.perf_counter(), zygote_cpu_seconds()
    handles = [ProcessHandle(job, ["cpu"], threads=1, processes=way) for job in jobs]
    try:
        while not all((job.folder / "progress.json").exists() for job in jobs):
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        pids = [handle.process.pid for handle in handles]
        cpu = sum(map(cpu_seconds, pids)) + zygote_cpu_seconds() - zygote_cpu
        shared = [zygote_pid()] if way == "fork" else []
        memory = sum(map(proportional_bytes, [*pids, *shared]))
    finally:
        for handle in handles:
            handle.kill()
            handle.process.wait()
            handle.poll()
    return {
        "six segments at once, s": seconds,
        "six segments at once, memory together, MB": memory / 1e6,
        "CPU seconds of each": cpu / len(jobs),
    }


def train_many(folder: Path, way: str, segments: int) -> dict[str, float]:
    """Do a run of many segments with one epoch each, and return the CPU seconds of its processes."""
    settings = settings_of(
        way,
        segments,
        network=MLP(depth=segments, width=64),
        data=Glyphs(limit_train=20_000, limit_test=1000),
        train=TrainSettings(epochs=1, early_stop=0, precision="fp32", accuracy_curve=False),
    )
    before = children_cpu_seconds()
    results = partrain.run(settings, folder, show_progress=False)
    total = children_cpu_seconds() - before
    training = sum(segment["utilization"] * segment["train_seconds"] for segment in results["segments"])
    return {f"{segments} segments, CPU seconds": total, f"{segments} segments, of these training": training}


def peak_memory(folder: Path, way: str) -> float:
    """Return the peak memory in MB that the results of a training report."""
    settings = settings_of(
        way,
        1,
        network=MLP(depth=4, width=1900),
        data=Glyphs(limit_train=4000, limit_test=1000),
        train=TrainSettings(epochs=1, early_stop=0, precision="fp32", accuracy_curve=False),
    )
    results = partrain.run(settings, folder, show_progress=False)
    return float(results["segments"][0]["peak_memory_bytes"]) / 1e6


# ---- What Linux counts.


def zygote_pid() -> int:
    """Return the number of the zygote's process."""
    process = shared_zygote().process
    assert process is not None
    return process.pid


def zygote_cpu_seconds() -> float:
    """Return the CPU seconds of the zygote itself, which imports and forks."""
    return cpu_seconds(zygote_pid())


def children_cpu_seconds() -> float:
    """Return the CPU seconds of all processes that have ended, and of the zygote."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime + cpu_seconds(zygote_pid(), children=True)


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Return the CPU seconds of a process, and of its children that have ended if these are to count."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11 : 15 if children else 13]
    return sum(map(int, times)) / TICKS


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, of which each page counts as its part for each process that shares it (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Linux does not say how much memory a process takes")


if __name__ == "__main__":
    main()
