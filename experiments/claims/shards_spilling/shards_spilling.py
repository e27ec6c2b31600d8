"""A model whose state is eight times what its device may hold: the seconds of a step, spilled and not, as table and plot.

    python experiments/claims/shards_spilling/shards_spilling.py --root <folder with EMNIST/raw>

On a CPU, device and host are the same memory, so a worker copies shards between separate buffers here, as a GPU must. All
variants have the same cores. The threads that copy share them with the threads that compute. Variants take turns.
"""

import argparse
import csv
import itertools
import os
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
from partrain.device import num_cores
from partrain.launch.allocator import MANY_TRAININGS
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, TIMELINE
from partrain.training.optimization import TrainSettings

HERE = Path(__file__).resolve().parent
WHOLE = "whole, in memory"
SPILLED = {
    "spilled, double buffer": Shards(separate=True, activations="keep"),
    "spilled, no double buffer": Shards(separate=True, activations="keep", double_buffer=False),
    "spilled, recomputing": Shards(separate=True, activations="recompute"),
}
VARIANTS = (WHOLE, *SPILLED)
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A repetition of a variant."""

    seconds: float
    """Seconds of a step."""
    shards: int = 1
    peak_mib: float = 0.0
    """The most that the worker held, in MiB."""
    state_mib: float = 0.0
    """Weights and optimiser state, in MiB."""


def main() -> None:
    """Measure all variants in turns, and write table and plot."""
    options = parse_options()
    # The workers' settings of the allocator, for the whole model too.
    os.environ.update(MANY_TRAININGS.environment)
    with errors_in_one_line():
        settings = run_settings(options)
        dataset = prepare_data(settings.data)
        measurements = measure_all(options, settings, dataset)
        state_mib = next(measurements[variant][0].state_mib for variant in SPILLED)
        note = (
            f"784-{options.width}×{options.depth - 1}-47, batch {options.batch}, fp32, AdamW: weights and optimiser "
            f"state of {state_mib:.0f} MiB, {state_mib / options.budget:.1f} times the worker's {options.budget:g} MiB."
        )
        write_table(options.out, table(measurements), [note], dataset)
        milliseconds = {variant: [1000 * run.seconds for run in runs] for variant, runs in measurements.items()}
        plot_bars(milliseconds, list(SPILLED), "milliseconds of a step", options.out / "plot.png")


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=42)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--budget", type=float, default=62, help="memory of the worker's device, in MiB")
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def run_settings(options: argparse.Namespace) -> RunSettings:
    """Return the settings of the one model that all variants train."""
    return RunSettings(
        data=replace(claim_data_settings(options), limit_train=options.batch * options.steps),
        network=MLP(depth=options.depth, width=options.width),
        partition=PartitionSettings(segments=1),
        train=TrainSettings(epochs=1, batch_size=options.batch, precision="fp32"),
        launch=Local(device="cpu", threads=num_cores()),
    )


def measure_all(options: argparse.Namespace, settings: RunSettings, dataset: Dataset) -> dict[str, list[Measurement]]:
    """Return the measurements of each variant, a repetition each. Every other repetition goes in reverse order."""
    measurements: dict[str, list[Measurement]] = {variant: [] for variant in VARIANTS}
    for repetition in range(options.repetitions):
        for variant in reversed(VARIANTS) if repetition % 2 else VARIANTS:
            folder = options.runs.absolute() / f"{variant.replace(' ', '-').replace(',', '')}-{repetition}"
            if variant == WHOLE:
                measurement = measure_whole(settings, folder, dataset)
            else:
                shard_settings = replace(SPILLED[variant], budget_gib=options.budget / 1024)
                measurement = measure_spilled(settings, shard_settings, folder, dataset)
            measurements[variant].append(measurement)
            print(f"{variant}, repetition {repetition}: {measurement.seconds:.3f} s a step", flush=True)
    return measurements


def measure_whole(settings: RunSettings, folder: Path, dataset: Dataset) -> Measurement:
    """Train the model as a whole, in memory."""
    results = partrain.run(settings, folder, dataset=dataset, show_progress=False)
    (segment,) = results["segments"]
    return Measurement(seconds=settings.train.batch_size / segment["samples_per_second"])


def measure_spilled(settings: RunSettings, shard_settings: Shards, folder: Path, dataset: Dataset) -> Measurement:
    """Train the model in shards that take turns on one worker, unless `folder` has done so before."""
    run = partrain.prepare_run(settings, folder / "model", dataset)
    run.write()
    task = run.folder / "segments/0"
    if not (folder / TIMELINE).exists():
        failures = partrain.train_sharded([task], ["cpu"], folder, shard_settings)
        assert not failures, failures
    rows = list(csv.DictReader((folder / TIMELINE).read_text().splitlines()))
    progress = checkpoint.load_metadata(task / CHECKPOINT)
    return Measurement(
        seconds=step_seconds(rows),
        shards=1 + max(int(row["shard"]) for row in rows),
        peak_mib=progress["peak_memory_bytes"] / _MIB,
        state_mib=(progress["parameter_bytes"] + progress["optimizer_state_bytes"]) / _MIB,
    )


def step_seconds(rows: list[dict[str, str]]) -> float:
    """Return the median time from one step's last unit to the next one's, given all rows of a timeline.

    The first step, in which shards are built, is thereby left out.
    """
    ends: dict[int, float] = {}
    for row in rows:
        step = int(row["step"])
        ends[step] = max(ends.get(step, 0.0), float(row["store_end"]))
    in_order = [ends[step] for step in sorted(ends)]
    return median(after - before for before, after in itertools.pairwise(in_order))


def table(measurements: dict[str, list[Measurement]]) -> list[dict[str, Any]]:
    """Return a row per variant. Ratios are taken within each repetition, then their median."""
    whole = [run.seconds for run in measurements[WHOLE]]
    rows: list[dict[str, Any]] = []
    for variant, runs in measurements.items():
        seconds = [run.seconds for run in runs]
        rows.append(
            {"side": variant, "ms a step": round(1000 * median(seconds))}
            | ratio_columns("× whole", seconds, whole)
            | {
                "shards": runs[0].shards,
                "device MiB at most": round(max(run.peak_mib for run in runs), 1) if variant in SPILLED else "",
            }
        )
    return rows


if __name__ == "__main__":
    main()
