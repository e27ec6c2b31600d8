"""Sixteen mixed workloads on eight simulated devices: the time of every policy against a bound that none can beat.

    python experiments/claims/shards_schedule/shards_schedule.py --root <folder with EMNIST/raw>

The costs of units are measured here, for several networks cut for several budgets. The models of each workload are drawn.
"""

import random
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, whose modules the claims share

from claims.output import save_figure, write_table
from claims.runs import claim_data_settings, make_parser

import partrain
from partrain import RunSettings, Shards
from partrain.cli.errors import errors_in_one_line
from partrain.data import Dataset, prepare_data
from partrain.networks import CNN, MLP, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.style import COLOURS
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.policies import POLICIES, LongestRemaining
from partrain.shards.preparation import ModelPreparer
from partrain.shards.profiler import profile_step
from partrain.shards.scheduler import Cost
from partrain.shards.simulator import Load, simulate
from partrain.shards.trials import finish_here
from partrain.shards.worker_pool import worker_settings
from partrain.training.context import LocalContext
from partrain.training.optimization import TrainSettings

HERE = Path(__file__).resolve().parent
WORKLOADS = 16
DEVICES = 8
MANY_MODELS = 1000

Costs = tuple[Cost, ...]
"""The costs of the units of a step."""


@dataclass(frozen=True)
class ModelKind:
    """A kind of model that workloads are drawn from."""

    network: NetworkSettings
    batch_size: int
    budget_mib: float
    """The memory of a device that the model is cut for, in MiB."""


MODEL_KINDS = {
    "784-512×5-47": ModelKind(MLP(depth=6, width=512), 256, 24),
    "784-512×11-47": ModelKind(MLP(depth=12, width=512), 128, 24),
    "784-1024×7-47": ModelKind(MLP(depth=8, width=1024), 256, 80),
    "CNN 32-32-64-64": ModelKind(CNN(channels=[32, 32, 64, 64], strides=[1, 2, 1, 2], hidden=[256]), 128, 150),
}


def main() -> None:
    """Measure the costs, simulate all workloads, and write table and plot."""
    options = make_parser(__doc__, HERE).parse_args()
    with errors_in_one_line(), tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        dataset = prepare_data(replace(claim_data_settings(options), limit_train=2000))
        costs = {
            name: measure_costs(kind, dataset, Path(folder) / str(number))
            for number, (name, kind) in enumerate(MODEL_KINDS.items())
        }
        rows = workload_rows(costs, has_copies=False) + workload_rows(costs, has_copies=True)
        without_copies = [row for row in rows if not row["copies"]]
        with_copies = [row for row in rows if row["copies"]]
        notes = [
            kinds_note(costs),
            policy_note(without_copies, "Without copies"),
            policy_note(with_copies, "With copies"),
            many_models_note(costs, DEVICES),
            many_models_note(costs, MANY_MODELS),
        ]
        write_table(options.out, rows, notes, dataset)
        plot(without_copies, options.out / "plot.png")


def measure_costs(kind: ModelKind, dataset: Dataset, folder: Path) -> Costs:
    """Return the costs of a step's units, as the preparation of a sharded training measures them."""
    settings = RunSettings(
        network=kind.network,
        partition=PartitionSettings(segments=1),
        train=TrainSettings(batch_size=kind.batch_size, precision="fp32"),
    )
    run = partrain.prepare_run(settings, folder, dataset)
    run.write()
    host_model = HostModel(folder / "segments/0", "one", LocalContext())
    shard_settings = Shards(budget_gib=kind.budget_mib / 1024)
    (worker,) = worker_settings(["cpu"], shard_settings)
    # The steps are computed in this process, which has one thread.
    profile = partial(profile_step, device=torch.device("cpu"), uses_separate_buffers=worker.uses_separate_buffers)
    with closing(HostMemory(folder, on_disk=False)) as host:
        preparer = ModelPreparer(shard_settings, worker, host)
        return finish_here(preparer.plan_shards(host_model, host_model.training.task), profile).costs


def draw_workload(seed: int, costs: dict[str, Costs], *, has_copies: bool, num_models: int | None = None) -> list[Load]:
    """Return models drawn from `costs`, each with a number of steps of its own.

    Args:
        seed: The seed of the workload.
        costs: The costs of each kind of model.
        has_copies: Whether copying shards in and out takes time.
        num_models: The number of models, by default drawn from 16, 24 and 32.
    """
    generator = random.Random(seed)
    loads = []
    for _ in range(num_models or generator.choice([16, 24, 32])):
        units = costs[generator.choice(list(costs))]
        if not has_copies:
            units = tuple(Cost(seconds=unit.seconds) for unit in units)
        loads.append(Load(units=units, steps=generator.randint(20, 60)))
    return loads


def workload_rows(costs: dict[str, Costs], *, has_copies: bool) -> list[dict[str, Any]]:
    """Return a row per workload: its lower bound in seconds, and each policy's time over it."""
    rows = []
    for seed in range(WORKLOADS):
        loads = draw_workload(seed, costs, has_copies=has_copies)
        results = {name: simulate(loads, DEVICES, policy(seed)) for name, policy in POLICIES.items()}
        longest = results["longest_remaining"]
        rows.append(
            {
                "workload": seed,
                "copies": has_copies,
                "models": len(loads),
                "lower bound, s": round(longest.lower_bound, 1),
                **{name: round(result.makespan / result.lower_bound, 3) for name, result in results.items()},
                "× model parallel": round(sum(load.seconds for load in loads) / longest.makespan, 2),
                "busy, %": round(100 * longest.busy, 1),
            }
        )
    return rows


def kinds_note(costs: dict[str, Costs]) -> str:
    """Return a sentence on each kind of model: its shards, and the time of its steps and copies."""
    kinds = [
        f"{name}: {(len(units) + 1) // 2} shards, {1000 * sum(unit.seconds for unit in units):.0f} ms a step, "
        f"{1000 * sum(unit.load + unit.store for unit in units):.0f} ms of copies"
        for name, units in costs.items()
    ]
    return f"{DEVICES} devices. {'; '.join(kinds)}."


def policy_note(rows: list[dict[str, Any]], label: str) -> str:
    """Return a sentence on longest remaining first, over the workloads of `rows`."""
    times = [row["longest_remaining"] for row in rows]
    speedups = [row["× model parallel"] for row in rows]
    worst_over_fifo = max(row["longest_remaining"] / row["fifo"] for row in rows)
    return (
        f"{label}: longest remaining first takes {median(times):.3f} of the lower bound (at most {max(times):.3f}), "
        f"at most {worst_over_fifo:.3f} of fifo's time, and is {median(speedups):.2f} times as fast as model parallel "
        f"(at least {min(speedups):.2f})."
    )


def many_models_note(costs: dict[str, Costs], devices: int) -> str:
    """Return a sentence on many models on so many devices, and on how long it takes to simulate them."""
    loads = draw_workload(0, costs, has_copies=True, num_models=MANY_MODELS)
    began_at = time.perf_counter()
    result = simulate(loads, devices, LongestRemaining())
    seconds = time.perf_counter() - began_at
    return (
        f"{MANY_MODELS:,} models on {devices:,} devices, with copies: {result.makespan / result.lower_bound:.3f} of the "
        f"lower bound; {len(result.timeline):,} units, simulated in {seconds:.0f} s."
    )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each policy's time over the lower bound, for every workload."""
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


if __name__ == "__main__":
    main()
