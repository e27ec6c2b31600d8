"""Eight models on two workers: shards of all of them interleaved, against one model at a time, as table and plot.

    python experiments/claims/shards/shards.py --root <folder with EMNIST/raw>

One model at a time trains by model parallelism or by 1F1B pipelines with 2, 4 or 8 microbatches. Both are PyTorch's own,
have a worker per half of the network, and are measured in their second epoch. Of the shards all time counts, from the
first unit on. Sides take turns, and all workers have one core. Runs are kept in --runs; finished ones are not repeated.
"""

import argparse
import csv
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, whose modules the claims share

from claims.output import plot_bars, ratio_columns, write_table
from claims.runs import claim_data_settings, make_parser

import partrain
from partrain import RunSettings, Shards
from partrain.cli.errors import errors_in_one_line
from partrain.data import Dataset, prepare_data
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.shards.policies import LongestRemaining
from partrain.shards.simulator import read_loads, simulate
from partrain.storage.run_folder import COSTS, TIMELINE
from partrain.strategies.settings import STRATEGIES
from partrain.training.optimization import TrainSettings

HERE = Path(__file__).resolve().parent
MODELS, WORKERS = 8, 2
SHARDS = "shards of 8 models"
RIVALS = {"model parallel": ("model_parallel", 1)} | {f"1F1B, {m} microbatches": ("1f1b", m) for m in (2, 4, 8)}
"""The strategy and the number of microbatches of each way to train one model at a time."""
SIDES = (SHARDS, *RIVALS)


@dataclass(frozen=True, kw_only=True)
class ShardsMeasurement:
    """A repetition of the sharded training."""

    samples_per_second: float
    """Samples per second of all models together."""
    busy: float
    """The part of the time for which the workers computed, from 0 to 1."""
    simulated: float
    """The simulated time over the measured one."""
    speedup_on_8_devices: float
    """The simulated speed of 16 such models on 8 devices, over one model at a time without traffic."""
    num_shards: int


def main() -> None:
    """Measure all sides in turns, and write table and plot."""
    options = parse_options()
    with errors_in_one_line():
        settings = run_settings(options)
        dataset = prepare_data(settings.data)
        speeds, sharded = measure_all(options, settings, dataset)
        write_table(options.out, table(speeds), [note(options, sharded)], dataset)
        plot_bars(speeds, [SHARDS], "samples per second on two workers of one core", options.out / "plot.png")


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--budget", type=float, default=0.1, help="memory of each worker's device, in GiB")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def run_settings(options: argparse.Namespace) -> RunSettings:
    """Return the settings of each model."""
    return RunSettings(
        data=replace(claim_data_settings(options), limit_train=options.batch * options.steps),
        network=MLP(depth=6, width=options.width),
        partition=PartitionSettings(segments=1),
        train=TrainSettings(epochs=2, batch_size=options.batch, precision=options.precision),
        launch=Local(device="cpu", threads=1),
    )


def measure_all(
    options: argparse.Namespace, settings: RunSettings, dataset: Dataset
) -> tuple[dict[str, list[float]], list[ShardsMeasurement]]:
    """Return the samples per second of each side, a value per repetition, and all that was measured of the shards.

    Every other repetition goes in reverse order.
    """
    speeds: dict[str, list[float]] = {side: [] for side in SIDES}
    sharded: list[ShardsMeasurement] = []
    for repetition in range(options.repetitions):
        for side in reversed(SIDES) if repetition % 2 else SIDES:
            folder = options.runs.absolute() / f"{side.replace(' ', '-').replace(',', '')}-{repetition}"
            if side == SHARDS:
                sharded.append(measure_shards(settings, options.budget, folder, dataset))
                speed = sharded[-1].samples_per_second
            else:
                speed = measure_one_at_a_time(settings, *RIVALS[side], folder, dataset)
            speeds[side].append(speed)
            print(f"{side}, repetition {repetition}: {speed:.0f} samples/s", flush=True)
    return speeds, sharded


def measure_shards(settings: RunSettings, budget_gib: float, folder: Path, dataset: Dataset) -> ShardsMeasurement:
    """Train all models in shards, unless `folder` has done so before, and simulate the same."""
    tasks = []
    for seed in range(MODELS):
        run = partrain.prepare_run(replace(settings, seed=seed), folder / f"models/{seed}", dataset)
        run.write()
        tasks.append(run.folder / "segments/0")
    if not (folder / COSTS).exists():
        failures = partrain.train_sharded(tasks, ["cpu"] * WORKERS, folder, Shards(budget_gib=budget_gib))
        assert not failures, failures

    rows = [
        {name: float(row[name]) for name in ("load_begin", "begin", "end", "store_end")}
        for row in csv.DictReader((folder / TIMELINE).read_text().splitlines())
    ]
    seconds = max(row["store_end"] for row in rows) - min(row["load_begin"] for row in rows)
    computed = sum(row["end"] - row["begin"] for row in rows)
    loads = read_loads(folder / COSTS)
    samples = sum(load.steps for load in loads) * settings.train.batch_size
    on_8_devices = simulate(loads * 2, 8, LongestRemaining())
    return ShardsMeasurement(
        samples_per_second=samples / seconds,
        busy=computed / (WORKERS * seconds),
        simulated=simulate(loads, WORKERS, LongestRemaining()).makespan / seconds,
        speedup_on_8_devices=sum(load.seconds for load in loads * 2) / on_8_devices.makespan,
        num_shards=loads[0].num_shards,
    )


def measure_one_at_a_time(
    settings: RunSettings, strategy: str, microbatches: int, folder: Path, dataset: Dataset
) -> float:
    """Return the samples per second of one model, which are those of eight, one after another."""
    settings = replace(
        settings,
        partition=PartitionSettings(segments=WORKERS, balance="compute"),
        strategy=STRATEGIES.from_dict({"name": strategy, "microbatches": microbatches}),
    )
    results = partrain.run(settings, folder, dataset=dataset, show_progress=False)
    return float(results["segments"][-1]["samples_per_second"])


def table(speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row per side. Ratios are taken within each repetition, then their median."""
    return [
        {"side": side, "samples/s": round(median(values))}
        | ratio_columns("shards are × faster", speeds[SHARDS], values)
        for side, values in speeds.items()
    ]


def note(options: argparse.Namespace, sharded: list[ShardsMeasurement]) -> str:
    """Return sentences on the models, on how busy the workers were, and on the simulation, from medians."""
    busy = median(measurement.busy for measurement in sharded)
    simulated = median(measurement.simulated for measurement in sharded)
    speedup = median(measurement.speedup_on_8_devices for measurement in sharded)
    num_shards = median(measurement.num_shards for measurement in sharded)
    return (
        f"{MODELS} models 784-{options.width}×5-47, batch {options.batch}, {options.precision}, 2 epochs of "
        f"{options.steps} steps, AdamW; {num_shards:.0f} shards each in {options.budget} GiB a worker. The workers "
        f"computed for {100 * busy:.1f} % of the time. The simulator, from the measured costs of units, takes "
        f"{simulated:.3f} of the measured time; for 16 such models on 8 devices, {speedup:.2f} times as fast as model "
        "parallel, one at a time without any traffic."
    )


if __name__ == "__main__":
    main()
