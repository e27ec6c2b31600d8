"""A model whose state is eight times what its device may hold: seconds of a step, spilled and not: table and plot.

    python experiments/claims/shards_spilling/shards_spilling.py --root <folder with EMNIST/raw>

On a CPU, device and host are the same memory, so a worker copies shards between separate buffers here, as a GPU must. All
sides have the same cores: those that copy share them with those that compute. Sides take turns.
"""

import csv
import itertools
import os
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
from partrain.device import num_cores
from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings
from partrain.packs.planner import ALLOCATOR
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, TIMELINE
from partrain.training.optimization import TrainSettings

HERE = Path(__file__).resolve().parent
WHOLE = "whole, in memory"
SPILLED = {
    "spilled, double buffer": ShardSettings(separate=True, activations="keep"),
    "spilled, no double buffer": ShardSettings(separate=True, activations="keep", double_buffer=False),
    "spilled, recomputing": ShardSettings(separate=True, activations="recompute"),
}


def unit_seconds(rows: list[dict[str, str]]) -> float:
    """Of a step: the median from one step's last unit to the next one's, as the first ones build and warm up."""
    ends: dict[int, float] = {}
    for row in rows:
        ends[int(row["step"])] = max(ends.get(int(row["step"]), 0.0), float(row["store_end"]))
    moments = [ends[step] for step in sorted(ends)]
    return median(after - before for before, after in itertools.pairwise(moments))


def spilled(
    settings: RunSettings, how: ShardSettings, mebibytes: float, folder: Path, dataset: Dataset
) -> dict[str, float]:
    run = partrain.prepare_run(settings, folder / "model", dataset)
    run.write()
    task = run.folder / "segments/0"
    if not (folder / TIMELINE).exists():
        failed = partrain.train_sharded([task], ["cpu"], folder, replace(how, budget_gib=mebibytes / 1024))
        assert not failed, failed
    rows = list(csv.DictReader((folder / TIMELINE).read_text().splitlines()))
    progress = checkpoint.load_metadata(task / CHECKPOINT)
    return {
        "seconds": unit_seconds(rows),
        "shards": 1 + max(int(row["shard"]) for row in rows),
        "peak": progress["peak_memory_bytes"] / 2**20,
        "state": (progress["parameter_bytes"] + progress["optimizer_state_bytes"]) / 2**20,
    }


def whole(settings: RunSettings, folder: Path, dataset: Dataset) -> dict[str, float]:
    results = partrain.run(settings, folder, dataset=dataset, show_progress=False)
    (segment,) = results["segments"]
    return {"seconds": settings.train.batch_size / segment["samples_per_second"]}


def table(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row per side; ratios are taken within a repetition, then their median."""
    base = [run["seconds"] for run in found[WHOLE]]
    rows: list[dict[str, Any]] = []
    for side, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        rows.append(
            {"side": side, "ms a step": round(1000 * median(seconds))}
            | ratio_columns("× whole", seconds, base)
            | {
                "shards": int(runs[0].get("shards", 1)),
                "device MiB at most": round(max(run["peak"] for run in runs), 1) if side in SPILLED else "",
            }
        )
    return rows


def main() -> None:
    options = make_parser(__doc__, HERE)
    options.add_argument("--width", type=int, default=1024)
    options.add_argument("--depth", type=int, default=42)
    options.add_argument("--batch", type=int, default=1024)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--budget", type=float, default=62, help="MiB of the worker")
    options.add_argument("--repetitions", type=int, default=3)
    given = options.parse_args()
    os.environ.update(ALLOCATOR)  # that of workers, for the model that is whole too
    with errors_in_one_line():
        data = replace(claim_data_settings(given), limit_train=given.batch * given.steps)
        dataset = prepare_data(data)
        settings = RunSettings(
            data=data,
            network=MLPSettings(depth=given.depth, width=given.width),
            partition=PartitionSettings(segments=1),
            train=TrainSettings(epochs=1, batch_size=given.batch, precision="fp32"),
            launch=LaunchSettings(device="cpu", threads=num_cores()),
        )
        found: dict[str, list[dict[str, float]]] = {side: [] for side in (WHOLE, *SPILLED)}
        for repetition in range(given.repetitions):
            for side in reversed(found) if repetition % 2 else found:
                folder = given.runs.absolute() / f"{side.replace(' ', '-').replace(',', '')}-{repetition}"
                if side == WHOLE:
                    found[side].append(whole(settings, folder, dataset))
                else:
                    found[side].append(spilled(settings, SPILLED[side], given.budget, folder, dataset))
                print(side, repetition, round(found[side][-1]["seconds"], 3), flush=True)
        state = next(iter(found[side][0]["state"] for side in SPILLED))
        notes = (
            f"784-{given.width}×{given.depth - 1}-47, batch {given.batch}, fp32, AdamW: weights and optimiser state of "
            f"{state:.0f} MiB, {state / given.budget:.1f} times the worker's {given.budget:g} MiB."
        )
        write_table(given.out, table(found), [notes], dataset)
        spent = {side: [1000 * run["seconds"] for run in runs] for side, runs in found.items()}
        plot_bars(spent, list(SPILLED), "milliseconds of a step", given.out / "plot.png")


if __name__ == "__main__":
    main()
