"""Eight different models trained as one unified model, against eight processes at once and one after another.

    python experiments/claims/unified/unified.py --root <folder with EMNIST/raw>
    python experiments/claims/unified/unified.py --epochs 1 --repetitions 1

Times are of whole processes, from their start to their end. Memory is the sum over processes of what each holds for itself
and its share of what it has in common with others (PSS, as Linux tells it), the largest seen while they train.
"""

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure, write_table
from claims.runs import claim_data_settings, make_parser

import partrain
from partrain.cli.config import clear_errors
from partrain.data import Dataset, prepare_data
from partrain.data.batches import DeviceImages
from partrain.device import num_cores
from partrain.launch.job import Job
from partrain.networks import MLPSettings
from partrain.packs.planner import PendingTraining, ShapeGroup, pack_job, write_pack
from partrain.partition.plan import PartitionSettings
from partrain.report.style import COLOURS
from partrain.runs.prepare import prepare_run
from partrain.settings import RunSettings
from partrain.training.optimization import TrainSettings
from partrain.training.task import SegmentTask

HERE = Path(__file__).resolve().parent

WAYS = ("unified", "at once", "one after another")
NARROW, WIDE = MLPSettings(depth=3, width=32), MLPSettings(depth=3, width=64)
BASE = TrainSettings(batch_size=32, precision="fp32")
# no two alike: two networks, three optimisers, rates, decays, schedules, seeds and so data orders
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


def write_tasks(folder: Path, epochs: int, dataset: Dataset) -> dict[Path, SegmentTask]:
    """The eight trainings, in folders below `folder`."""
    tasks = {}
    for number, (network, train) in enumerate(MODELS):
        settings = RunSettings(
            network=network,
            train=replace(train, epochs=epochs),
            partition=PartitionSettings(segments=1),
            seed=number,
        )
        run = prepare_run(settings, folder / str(number), dataset)
        run.write()
        tasks[folder / str(number) / "segments/0"] = run.tasks["segments/0"]
    return tasks


def jobs_of(way: str, folder: Path, tasks: dict[Path, SegmentTask]) -> list[Job]:
    """The processes that train `tasks` in this way, each with its threads."""
    if way == "at once":
        jobs = [Job(path, path.parents[1].name, task.device, 1.0) for path, task in tasks.items()]
        for job in jobs:
            job.give_threads(max(1, num_cores() // len(jobs)))
        return jobs
    size = len(tasks) if way == "unified" else 1
    trainings = [
        PendingTraining(folder=path, task=task, name=path.parents[1].name, cost=1.0) for path, task in tasks.items()
    ]
    write_pack(folder / "pack", [ShapeGroup(trainings, size)])
    job = pack_job(folder / "pack", trainings)
    job.give_threads(num_cores())
    return [job]


class Memory:
    """Watches the sum of the processes' PSS, bytes, in a thread of its own."""

    def __init__(self, processes: Sequence[int]) -> None:
        self.peak = 0
        self._files = [Path(f"/proc/{process}/smaps_rollup") for process in processes]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            self.peak = max(self.peak, sum(map(_pss, self._files)))

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.peak


def _pss(file: Path) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def do(way: str, folder: Path, epochs: int, dataset: Dataset) -> dict[str, Any]:
    """Train all in this way; seconds, bytes, and each model's test accuracy."""
    shutil.rmtree(folder, ignore_errors=True)
    tasks = write_tasks(folder, epochs, dataset)
    jobs = jobs_of(way, folder, tasks)
    started = time.perf_counter()
    for job in jobs:
        job.start()
    memory = Memory([job.process.pid for job in jobs if job.process])
    for job in jobs:
        assert job.process is not None
        if job.process.wait():
            raise job.failure(job.process.returncode)
    seconds = time.perf_counter() - started
    return {
        "way": way,
        "seconds": seconds,
        "bytes": memory.stop(),
        "accuracies": [_accuracy(p, dataset) for p in tasks],
    }


def _accuracy(folder: Path, dataset: Dataset) -> float:
    model = partrain.load(folder)
    images, right = DeviceImages(dataset, dataset.test, torch.device("cpu")), 0
    with torch.inference_mode():
        for indices in torch.arange(len(dataset.test)).split(2000):
            values, targets = images.gather(indices)
            right += int((model(values).argmax(dim=1) == targets).sum())
    return right / len(dataset.test)


def table(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per way; ratios are taken within a repetition, then their median."""
    rows = []
    for way, runs in found.items():

        def more(of: str, runs: list[dict[str, Any]] = runs) -> float:
            pairs = zip(found["unified"], runs, strict=True)
            ratio = median(unified[of] / other[of] for unified, other in pairs)
            return round(100 * (ratio - 1))

        accuracies = [median(run["accuracies"][number] for run in runs) for number in range(len(MODELS))]
        rows.append(
            {
                "way": way,
                "seconds": round(median(run["seconds"] for run in runs), 1),
                "MiB": round(median(run["bytes"] for run in runs) / 2**20),
                "unified takes, time": "" if way == "unified" else f"{more('seconds'):+.0f} %",
                "unified takes, memory": "" if way == "unified" else f"{more('bytes'):+.0f} %",
                "mean test accuracy, %": round(100 * sum(accuracies) / len(accuracies), 2),
                "test accuracies, %": " ".join(f"{100 * each:.2f}" for each in accuracies),
            }
        )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory of the three ways."""
    figure = Figure(figsize=(9, 2.8))
    for axes, name in zip(figure.subplots(1, 2), ("seconds", "MiB"), strict=True):
        colours = [COLOURS[1] if row["way"] == "unified" else COLOURS[0] for row in rows]
        bars = axes.barh([row["way"] for row in rows], [row[name] for row in rows], color=colours, height=0.6)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.invert_yaxis()
        axes.set_xlim(right=1.15 * max(row[name] for row in rows))
        axes.set_xlabel("seconds, whole processes" if name == "seconds" else "memory of all processes, MiB (PSS)")
    save_figure(figure, path)


def main() -> None:
    options = make_parser(__doc__, HERE)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--repetitions", type=int, default=3)
    given = options.parse_args()
    with clear_errors():
        dataset = prepare_data(claim_data_settings(given))
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for repetition in range(given.repetitions):
            for way in reversed(WAYS) if repetition % 2 else WAYS:
                found[way].append(do(way, given.runs.absolute() / way.replace(" ", "-"), given.epochs, dataset))
                print({name: value for name, value in found[way][-1].items() if name != "accuracies"}, flush=True)
        rows = table(found)
        notes = f"{given.epochs} epochs; {given.repetitions} repetitions in turn, medians; ratios are taken within a "
        notes += "repetition, then their median."
        write_table(given.out, rows, [notes], dataset)
        plot(rows, given.out / "plot.png")


if __name__ == "__main__":
    main()
