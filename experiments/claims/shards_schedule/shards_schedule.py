"""Sixteen mixed workloads on eight simulated devices: every policy's time against what no schedule can be under.

    python experiments/claims/shards_schedule/shards_schedule.py --root <folder with EMNIST/raw>

The costs of units are measured here, of several networks cut for several budgets; what each workload is made of is drawn.
"""

import random
import sys
import tempfile
import time
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
from partrain import RunSettings, ShardSettings
from partrain.cli.errors import errors_in_one_line
from partrain.data import Dataset, prepare_data
from partrain.networks import CNNSettings, MLPSettings, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.style import COLOURS
from partrain.shards.host_model import HostModel
from partrain.shards.policies import POLICIES, LongestRemaining
from partrain.shards.preparation import ModelPreparer
from partrain.shards.scheduler import Cost
from partrain.shards.simulator import Load, simulate
from partrain.shards.worker_pool import worker_settings
from partrain.training.context import TrainingContext
from partrain.training.optimization import TrainSettings

HERE = Path(__file__).resolve().parent
WORKLOADS, DEVICES, SCALE = 16, 8, 1000

# network, batch size, MiB of a device
MODELS: dict[str, tuple[NetworkSettings, int, float]] = {
    "784-512×5-47": (MLPSettings(depth=6, width=512), 256, 24),
    "784-512×11-47": (MLPSettings(depth=12, width=512), 128, 24),
    "784-1024×7-47": (MLPSettings(depth=8, width=1024), 256, 80),
    "CNN 32-32-64-64": (CNNSettings(channels=[32, 32, 64, 64], strides=[1, 2, 1, 2], hidden=[256]), 128, 150),
}


def costs_of(network: NetworkSettings, batch: int, budget: float, dataset: Dataset, folder: Path) -> tuple[Cost, ...]:
    """Of the units of a step, as a trial of the partitioner measures them."""
    settings = RunSettings(
        network=network,
        partition=PartitionSettings(segments=1),
        train=TrainSettings(batch_size=batch, precision="fp32"),
    )
    run = partrain.prepare_run(settings, folder, dataset)
    run.write()
    host_model = HostModel(folder / "segments/0", "one", TrainingContext(folder))
    how = ShardSettings(budget_gib=budget / 1024)
    preparer = ModelPreparer(how, worker_settings(["cpu"], how)[0])
    return preparer.plan_shards(host_model, host_model.training.task).profile.costs


def workload(seed: int, costs: dict[str, tuple[Cost, ...]], copies: bool, models: int | None = None) -> list[Load]:
    """Models drawn from `costs`, each with a number of steps of its own. `copies`: shards are copied in and out."""
    draw = random.Random(seed)
    loads = []
    for _ in range(models or draw.choice([16, 24, 32])):
        units = costs[draw.choice(list(costs))]
        units = units if copies else tuple(Cost(seconds=unit.seconds) for unit in units)
        loads.append(Load(units=units, steps=draw.randint(20, 60)))
    return loads


def table(costs: dict[str, tuple[Cost, ...]], copies: bool) -> list[dict[str, Any]]:
    """A row per workload: its lower bound in seconds, and each policy's time over it."""
    rows = []
    for seed in range(WORKLOADS):
        loads = workload(seed, costs, copies)
        results = {name: simulate(loads, DEVICES, make(seed), pins_backward=True) for name, make in POLICIES.items()}
        longest = results["longest_remaining"]
        rows.append(
            {
                "workload": seed,
                "copies": copies,
                "models": len(loads),
                "lower bound, s": round(longest.lower_bound, 1),
                **{name: round(result.makespan / result.lower_bound, 3) for name, result in results.items()},
                "× model parallel": round(sum(load.seconds for load in loads) / longest.makespan, 2),
                "busy, %": round(100 * longest.busy, 1),
            }
        )
    return rows


def at_scale(costs: dict[str, tuple[Cost, ...]], devices: int) -> str:
    """What comes of many models, and how long it takes to simulate them."""
    loads = workload(0, costs, copies=True, models=SCALE)
    began = time.perf_counter()
    result = simulate(loads, devices, LongestRemaining())
    seconds = time.perf_counter() - began
    return (
        f"{SCALE:,} models on {devices:,} devices, with copies: {result.makespan / result.lower_bound:.3f} of the lower "
        f"bound; {len(result.timeline):,} units, simulated in {seconds:.0f} s."
    )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(8, 3.2))
    axes = figure.subplots()
    for colour, name in zip(COLOURS, POLICIES, strict=False):
        axes.plot([row["workload"] for row in rows], [row[name] for row in rows], "o", color=colour, label=name)
    axes.axhline(1, color="grey", linewidth=1)
    axes.set_xlabel("workload")
    axes.set_ylabel("time over the lower bound")
    axes.legend(loc="upper right")
    axes.set_ylim(top=1.6)
    save_figure(figure, path)


def main() -> None:
    given = make_parser(__doc__, HERE).parse_args()
    with errors_in_one_line(), tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        dataset = prepare_data(replace(claim_data_settings(given), limit_train=2000))
        costs = {
            name: costs_of(*model, dataset, Path(folder) / str(number))
            for number, (name, model) in enumerate(MODELS.items())
        }
        rows = [row for copies in (False, True) for row in table(costs, copies)]
        kinds = [
            f"{name}: {(len(units) + 1) // 2} shards, {1000 * sum(unit.seconds for unit in units):.0f} ms a step, "
            f"{1000 * sum(unit.load + unit.store for unit in units):.0f} ms of copies"
            for name, units in costs.items()
        ]
        notes = [f"{DEVICES} devices. {'; '.join(kinds)}."]
        for copies in (False, True):
            part = [row for row in rows if row["copies"] == copies]
            longest, faster = [row["longest_remaining"] for row in part], [row["× model parallel"] for row in part]
            worse = max(row["longest_remaining"] / row["fifo"] for row in part)
            notes.append(
                f"{'With' if copies else 'Without'} copies: longest remaining first takes {median(longest):.3f} of the "
                f"lower bound (at most {max(longest):.3f}), at most {worse:.3f} of fifo's time, and is "
                f"{median(faster):.2f} times as fast as model parallel (at least {min(faster):.2f})."
            )
        notes += [at_scale(costs, devices) for devices in (DEVICES, SCALE)]
        write_table(given.out, rows, notes, dataset)
        plot([row for row in rows if not row["copies"]], given.out / "plot.png")


if __name__ == "__main__":
    main()
