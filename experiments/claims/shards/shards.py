"""Eight models on two workers: shards of all of them interleaved, against one model at a time: table and plot.

    python experiments/claims/shards/shards.py --root <folder with EMNIST/raw>

One at a time is model parallel and 1F1B pipelines (by numbers of microbatches), both of PyTorch, with a worker per half of
the network, in their second epoch; of the shards all counts, from the first unit on. Sides take turns; all workers have one
core. Runs are kept in --runs; those that are done are not done again.
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import plot_bars, ratio_columns, write_table
from claims.runs import claim_data_settings, make_parser

import partrain
from partrain import RunSettings, ShardSettings
from partrain.cli.errors import errors_in_one_line
from partrain.data import Dataset, prepare_data
from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings
from partrain.partition.plan import PartitionSettings
from partrain.shards.policies import LongestRemaining
from partrain.shards.simulator import read_loads, simulate
from partrain.storage.run_folder import COSTS, TIMELINE
from partrain.strategies.settings import StrategySettings
from partrain.training.optimization import TrainSettings

HERE = Path(__file__).resolve().parent
MODELS, WORKERS = 8, 2
SHARDS = "shards of 8 models"
RIVALS = {"model parallel": ("model_parallel", 1)} | {f"1F1B, {m} microbatches": ("1f1b", m) for m in (2, 4, 8)}


def settings_of(width: int, batch: int, precision: str) -> RunSettings:
    return RunSettings(
        network=MLPSettings(depth=6, width=width),
        partition=PartitionSettings(segments=1),
        train=TrainSettings(epochs=2, batch_size=batch, precision=precision),
        launch=LaunchSettings(device="cpu", threads=1),
    )


def in_shards(settings: RunSettings, budget: float, folder: Path, dataset: Dataset) -> dict[str, float]:
    """Samples per second of all models, how busy the workers were, and how long the simulator thinks it takes."""
    tasks = []
    for seed in range(MODELS):
        run = partrain.prepare_run(replace(settings, seed=seed), folder / f"models/{seed}", dataset)
        run.write()
        tasks.append(run.folder / "segments/0")
    if not (folder / COSTS).exists():
        failed = partrain.train_sharded(tasks, ["cpu"] * WORKERS, folder, ShardSettings(budget_gib=budget))
        assert not failed, failed
    rows = [
        {name: float(row[name]) for name in ("load_begin", "begin", "end", "store_end")}
        for row in csv.DictReader((folder / TIMELINE).read_text().splitlines())
    ]
    seconds = max(row["store_end"] for row in rows) - min(row["load_begin"] for row in rows)
    loads = read_loads(folder / COSTS)
    samples = sum(load.steps for load in loads) * settings.train.batch_size
    simulated = simulate(loads, WORKERS, LongestRemaining())
    wide = simulate(loads * 2, 8, LongestRemaining())
    return {
        "samples per second": samples / seconds,
        "busy": sum(row["end"] - row["begin"] for row in rows) / (WORKERS * seconds),
        "simulated": simulated.makespan / seconds,
        "at 8 devices": sum(load.seconds for load in loads * 2) / wide.makespan,
        "shards": loads[0].num_shards,
    }


def one_at_a_time(settings: RunSettings, strategy: str, microbatches: int, folder: Path, dataset: Dataset) -> float:
    """Samples per second of one model, which are those of eight, one after another."""
    settings = replace(
        settings,
        partition=PartitionSettings(segments=WORKERS, balance="compute"),
        strategy=StrategySettings(name=strategy, microbatches=microbatches, port=0),
    )
    results = partrain.run(settings, folder, dataset=dataset, show_progress=False)
    return float(results["segments"][-1]["samples_per_second"])


def table(found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row per side; ratios are taken within a repetition, then their median."""
    return [
        {"side": side, "samples/s": round(median(values))} | ratio_columns("shards are × faster", found[SHARDS], values)
        for side, values in found.items()
    ]


def main() -> None:
    options = make_parser(__doc__, HERE)
    options.add_argument("--width", type=int, default=1024)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--budget", type=float, default=0.1, help="GiB of a worker")
    options.add_argument("--precision", default="fp32")
    options.add_argument("--repetitions", type=int, default=3)
    given = options.parse_args()
    with errors_in_one_line():
        data = replace(claim_data_settings(given), limit_train=given.batch * given.steps)
        dataset = prepare_data(data)
        settings = replace(settings_of(given.width, given.batch, given.precision), data=data)
        found: dict[str, list[float]] = {side: [] for side in (SHARDS, *RIVALS)}
        seen: list[dict[str, float]] = []
        for repetition in range(given.repetitions):
            for side in reversed(found) if repetition % 2 else found:
                folder = given.runs.absolute() / f"{side.replace(' ', '-').replace(',', '')}-{repetition}"
                if side == SHARDS:
                    seen.append(in_shards(settings, given.budget, folder, dataset))
                    value = seen[-1]["samples per second"]
                else:
                    value = one_at_a_time(settings, *RIVALS[side], folder, dataset)
                found[side].append(value)
                print(side, repetition, round(value), flush=True)
        middle = {name: median(each[name] for each in seen) for name in seen[0]}
        notes = (
            f"{MODELS} models 784-{given.width}×5-47, batch {given.batch}, {given.precision}, 2 epochs of {given.steps} "
            f"steps, AdamW; {middle['shards']:.0f} shards each in {given.budget} GiB a worker. The workers computed for "
            f"{100 * middle['busy']:.1f} % of the time. The simulator, from the measured costs of units, takes "
            f"{middle['simulated']:.3f} of the measured time; for 16 such models on 8 devices, {middle['at 8 devices']:.2f} "
            "times as fast as model parallel, one at a time without any traffic."
        )
        write_table(given.out, table(found), [notes], dataset)
        plot_bars(found, [SHARDS], "samples per second on two workers of one core", given.out / "plot.png")


if __name__ == "__main__":
    main()
