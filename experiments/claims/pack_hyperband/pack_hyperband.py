"""A whole search by Hyperband, packed, against the same search not packed: seconds, winners, table and plot.

    python experiments/claims/pack_hyperband/pack_hyperband.py --root <folder with EMNIST/raw>

Three sides take turns: configurations packed (launch.pack=auto), one after another on all cores (launch.threads=<cores>),
and side by side with one core each (launch.threads=1). Runs are kept in --runs; those that are done are not done again.
"""

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import plot_bars, ratio_columns, write_table
from claims.runs import claim_data_settings, make_parser

from partrain.cli.config import clear_errors
from partrain.data import DataSettings, prepare_data
from partrain.device import num_cores
from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

HERE = Path(__file__).resolve().parent

SPACE = [
    "train.lr=loguniform(1e-4,3e-2)",
    "train.weight_decay=loguniform(1e-4,1)",
    "train.optimizer=choice(adamw,adam)",
    "network.width=choice(32,64)",
]
SIDES = {
    "packed": LaunchSettings(device="cpu", pack="auto"),
    "one after another": LaunchSettings(device="cpu", threads=num_cores()),
    "side by side": LaunchSettings(device="cpu", threads=1),
}


def settings_of(launch: LaunchSettings, epochs: int, data: DataSettings) -> RunSettings:
    """Small networks, each of which trains for seconds."""
    return RunSettings(
        data=data,
        network=MLPSettings(depth=3, width=64),
        partition=PartitionSettings(segments=1),
        train=TrainSettings(epochs=epochs, batch_size=32, precision="fp32"),
        launch=launch,
        report=ReportSettings(refresh=0),
    )


def table(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per side; ratios are taken within a repetition, then their median."""
    packed = [run["seconds"] for run in found["packed"]]
    rows: list[dict[str, Any]] = []
    for side, runs in found.items():
        seconds, best = [run["seconds"] for run in runs], [run["best"] for run in runs]
        rows.append(
            {"side": side, "runs": len(runs), "seconds": round(median(seconds), 1)}
            | ratio_columns("packed is × faster", seconds, packed)
            | {
                "winner": " ".join(str(each["index"]) for each in best),
                "its validation accuracy, %": round(100 * median(each["score"] for each in best), 2),
                "its test accuracy, %": round(100 * median(each["test_accuracy"] for each in best), 2),
            }
        )
    return rows


def same_promotions(folders: list[Path]) -> tuple[int, int]:
    """How many of the rungs of all searches promoted the same configurations, and how many rungs there are."""
    names = sorted(path.name for path in (folders[0] / "rungs").iterdir())
    promoted = [
        [set(checkpoint.read_json(folder / "rungs" / name)["promoted"]) for name in names] for folder in folders
    ]
    return sum(all(one == rung[0] for one in rung) for rung in zip(*promoted, strict=True)), len(names)


def main() -> None:
    options = make_parser(__doc__, HERE)
    options.add_argument("--epochs", type=int, default=27)
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--repetitions", type=int, default=2)
    given = options.parse_args()
    with clear_errors():
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        folders = []
        data = replace(claim_data_settings(given), limit_train=given.images)
        for repetition in range(given.repetitions):
            for side in reversed(SIDES) if repetition % 2 else SIDES:
                folder = given.runs.absolute() / f"{side.replace(' ', '-')}-{repetition}"
                settings = settings_of(SIDES[side], given.epochs, data)
                search_settings = SearchSettings(method="hyperband", space=SPACE, eta=3)
                found[side].append(search(settings, search_settings, folder))
                folders.append(folder)
                print(side, repetition, round(found[side][-1]["seconds"], 1), flush=True)
        rows = table(found)
        same, rungs = same_promotions(folders)
        first = found["packed"][0]
        notes = (
            f"{first['configurations']} configurations, {first['epochs_trained']} epochs in all, a tenth of the images "
        )
        notes += (
            f"held out; {', '.join(SPACE)}; batch 32, fp32. Seconds are of the waves, start-up of their processes and "
        )
        notes += f"scoring included. {same} of {rungs} rungs promoted the same in all searches."
        write_table(given.out, rows, [notes], prepare_data(data))
        seconds = {side: [run["seconds"] for run in runs] for side, runs in found.items()}
        plot_bars(seconds, ["packed"], "seconds of the whole search", given.out / "plot.png", " s")


if __name__ == "__main__":
    main()
