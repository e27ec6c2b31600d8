"""Eight different models trained as one unified model, against eight processes at once and one after another.

    python experiments/claims/unified/unified.py --root <folder with EMNIST/raw>
    python experiments/claims/unified/unified.py --epochs 1 --repetitions 1

Times are of whole processes, from their start to their end. Memory is the sum of the processes' PSS, as Linux measures
it: what each holds for itself, and its share of what it has in common with others. The largest sum while they train
counts.
"""

import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure, write_table
from claims.runs import claim_data_settings, make_parser

import partrain
from partrain.cli.errors import errors_in_one_line
from partrain.data import Dataset, prepare_data
from partrain.data.batches import DeviceImages
from partrain.device import num_cores
from partrain.launch.display import Display
from partrain.launch.error_report import raise_failures
from partrain.launch.processes import ProcessExecutor
from partrain.launch.settings import Local
from partrain.launch.supervisor import Supervisor
from partrain.networks import MLP
from partrain.packs.planner import ShapeGroup, single_job, write_pack
from partrain.partition.plan import PartitionSettings
from partrain.report.style import COLOURS
from partrain.runs.prepare import prepare_run
from partrain.settings import RunSettings
from partrain.stitching.accuracy_curve import measure_accuracy
from partrain.training.job import Job
from partrain.training.optimization import TrainSettings
from partrain.training.task import PendingTraining

HERE = Path(__file__).resolve().parent

WAYS = ("unified", "at once", "one after another")
NARROW, WIDE = MLP(depth=3, width=32), MLP(depth=3, width=64)
BASE = TrainSettings(batch_size=32, precision="fp32")
# No two are alike: they have two networks, three optimisers, and various rates, decays, schedules, seeds and data orders.
MODELS = [
    (NARROW, replace(BASE, lr=1e-3)),
    (NARROW, replace(BASE, lr=3e-3, weight_decay=0.1)),
    (NARROW, replace(BASE, lr=0.05, optimizer="sgd")),
    (NARROW, replace(BASE, lr=1e-3, optimizer="adam", decay=1.0)),
    (WIDE, replace(BASE, lr=1e-3)),
    (WIDE, replace(BASE, lr=3e-3, weight_decay=0.1)),
    (WIDE, replace(BASE, lr=0.05, optimizer="sgd")),
    (WIDE, replace(BASE, lr=1e-3, optimizer="adam", decay=1.0)),
]

POLL_SECONDS = 0.25  # Between readings of the processes' memory.


@dataclass(frozen=True)
class Measurement:
    """The measurement of one way of training all models, in one repetition."""

    seconds: float
    peak_bytes: int
    accuracies: list[float]
    """The test accuracy of each model, from 0 to 1."""


def main() -> None:
    """Measure the three ways in turn and write the table and the plot."""
    options = make_parser(__doc__, HERE)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--repetitions", type=int, default=3)
    arguments = options.parse_args()
    with errors_in_one_line():
        dataset = prepare_data(claim_data_settings(arguments))
        measurements: dict[str, list[Measurement]] = {way: [] for way in WAYS}
        for repetition in range(arguments.repetitions):
            for way in reversed(WAYS) if repetition % 2 else WAYS:
                folder = arguments.runs.absolute() / way.replace(" ", "-")
                measurement = measure(way, folder, arguments.epochs, dataset)
                measurements[way].append(measurement)
                print(f"{way}: {measurement.seconds:.1f} s, {measurement.peak_bytes / 2**20:.0f} MiB", flush=True)
        rows = table(measurements)
        note = (
            f"{arguments.epochs} epochs; {arguments.repetitions} repetitions in turn, medians; ratios are taken within a "
            "repetition, then their median."
        )
        write_table(arguments.out, rows, [note], dataset)
        plot(rows, arguments.out / "plot.png")


# ---- One measurement.


def measure(way: str, folder: Path, epochs: int, dataset: Dataset) -> Measurement:
    """Train all models in one of the `WAYS`, in `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    trainings = write_tasks(folder, epochs, dataset)
    jobs = make_jobs(way, folder, trainings)

    started = time.perf_counter()
    executor = ProcessExecutor(Local(device="cpu", threads=max(1, num_cores() // len(jobs))))
    supervisor = Supervisor(jobs, executor, Display([], show_progress=False), max_restarts=0)
    with memory_meter(executor) as meter:
        supervisor.run()
    seconds = time.perf_counter() - started
    raise_failures(supervisor.failures)

    accuracies = [test_accuracy(training.folder, dataset) for training in trainings]
    return Measurement(seconds, meter.peak_bytes, accuracies)


def write_tasks(folder: Path, epochs: int, dataset: Dataset) -> list[PendingTraining]:
    """Write the tasks of the eight models, each in a folder below `folder`, and return their trainings."""
    trainings = []
    for number, (network, train) in enumerate(MODELS):
        settings = RunSettings(
            network=network,
            train=replace(train, epochs=epochs),
            partition=PartitionSettings(segments=1),
            seed=number,
        )
        run = prepare_run(settings, folder / str(number), dataset)
        run.write()
        task_folder = folder / str(number) / "segments/0"
        task = run.tasks["segments/0"]
        trainings.append(PendingTraining(folder=task_folder, task=task, name=str(number), cost=1.0))
    return trainings


def make_jobs(way: str, folder: Path, trainings: Sequence[PendingTraining]) -> list[Job]:
    """Return the processes that do `trainings` in one of the `WAYS`, each with its share of the cores."""
    if way == "at once":
        return [replace(single_job(training, "cpu"), gang=way) for training in trainings]
    stack_size = len(trainings) if way == "unified" else 1
    write_pack(folder / "pack", [ShapeGroup(trainings, stack_size)], "cpu")
    return [Job.read(folder / "pack")]


class MemoryMeter:
    """A meter of the memory of several processes together, in bytes of PSS.

    Args:
        executor: The executor of the processes.
    """

    def __init__(self, executor: ProcessExecutor) -> None:
        self.peak_bytes = 0
        self._executor = executor

    def read(self) -> None:
        """Read the processes' memory now and update the peak."""
        files = [Path(f"/proc/{handle.process.pid}/smaps_rollup") for handle in self._executor.handles]
        self.peak_bytes = max(self.peak_bytes, sum(map(read_pss, files)))


@contextmanager
def memory_meter(executor: ProcessExecutor) -> Iterator[MemoryMeter]:
    """Give a meter that a thread reads every quarter of a second for as long as the context is open."""
    meter = MemoryMeter(executor)
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.wait(POLL_SECONDS):
            meter.read()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        has_ended.set()
        thread.join()


def read_pss(file: Path) -> int:
    """Return the PSS of a process in bytes, given its smaps_rollup file, or 0 if the process has ended."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def test_accuracy(folder: Path, dataset: Dataset) -> float:
    """Return the accuracy on the test images, from 0 to 1, of the model that was trained in `folder`."""
    images = DeviceImages(dataset, dataset.test, torch.device("cpu"))
    return measure_accuracy(partrain.load(folder), images, len(dataset.test))


# ---- The table and the plot.


def table(measurements: dict[str, list[Measurement]]) -> list[dict[str, Any]]:
    """Return a row for each way. Ratios are taken within a repetition, then their median."""
    unified = measurements["unified"]
    return [row(way, runs, unified) for way, runs in measurements.items()]


def row(way: str, runs: Sequence[Measurement], unified: Sequence[Measurement]) -> dict[str, Any]:
    """Return the table's row of one way, given the measurements of all its repetitions and of the unified model."""
    pairs = list(zip(unified, runs, strict=True))
    time_ratio = median(ours.seconds / theirs.seconds for ours, theirs in pairs)
    memory_ratio = median(ours.peak_bytes / theirs.peak_bytes for ours, theirs in pairs)
    accuracies = [median(values) for values in zip(*(run.accuracies for run in runs), strict=True)]
    return {
        "way": way,
        "seconds": round(median(run.seconds for run in runs), 1),
        "MiB": round(median(run.peak_bytes for run in runs) / 2**20),
        "unified takes, time": "" if way == "unified" else as_change(time_ratio),
        "unified takes, memory": "" if way == "unified" else as_change(memory_ratio),
        "mean test accuracy, %": round(100 * sum(accuracies) / len(accuracies), 2),
        "test accuracies, %": " ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies),
    }


def as_change(ratio: float) -> str:
    """Return a ratio as the change from 1 in per cent, with its sign."""
    return f"{round(100 * (ratio - 1)):+.0f} %"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot seconds and memory of the three ways to `path`."""
    axis_labels = {"seconds": "seconds, whole processes", "MiB": "memory of all processes, MiB (PSS)"}
    figure = Figure(figsize=(9, 2.8))
    for axes, (column, label) in zip(figure.subplots(1, 2), axis_labels.items(), strict=True):
        colours = [COLOURS[1] if row["way"] == "unified" else COLOURS[0] for row in rows]
        bars = axes.barh([row["way"] for row in rows], [row[column] for row in rows], color=colours, height=0.6)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.invert_yaxis()
        axes.set_xlim(right=1.15 * max(row[column] for row in rows))
        axes.set_xlabel(label)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
