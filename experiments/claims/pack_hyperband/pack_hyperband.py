"""Time a whole Hyperband search with packed trials against the same search without packs, as a table and a plot.

    python experiments/claims/pack_hyperband/pack_hyperband.py --root <folder with EMNIST/raw>

Three variants ("sides") take turns: trials in packs (grouping=pack), one after another on all cores
(launch.threads=<cores>), and side by side on one core each (launch.threads=1). Searches are stored in --runs, and those
that have finished are not run again.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # The folder experiments/, for claims/output.py.

from claims.output import plot_bars, ratio_columns, write_table
from claims.runs import claim_data_settings, make_parser

from partrain.cli.errors import errors_in_one_line
from partrain.data import DataSettings, prepare_data
from partrain.device import num_cores
from partrain.launch.settings import GroupingSettings, LaunchSettings, Local
from partrain.networks import MLP
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.settings import Alone, RunSettings
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
SIDES: dict[str, tuple[GroupingSettings, LaunchSettings]] = {
    "packed": (Pack(), Local(device="cpu")),
    "one after another": (Alone(), Local(device="cpu", threads=num_cores())),
    "side by side": (Alone(), Local(device="cpu", threads=1)),
}


def make_settings(side: str, epochs: int, data: DataSettings) -> RunSettings:
    """Return the settings that all trials share: small networks, each of which trains for seconds."""
    grouping, launch = SIDES[side]
    return RunSettings(
        data=replace(data, validation=0.1),
        network=MLP(depth=3, width=64),
        partition=PartitionSettings(segments=1),
        train=TrainSettings(epochs=epochs, batch_size=32, precision="fp32"),
        grouping=grouping,
        launch=launch,
        report=ReportSettings(refresh=0),
    )


def table(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each side. Ratios are medians of the ratios within each repetition.

    Args:
        results: The contents of results.json of each side's searches, one for each repetition.
    """
    packed = [search_results["seconds"] for search_results in results["packed"]]
    rows: list[dict[str, Any]] = []
    for side, searches in results.items():
        seconds = [search_results["seconds"] for search_results in searches]
        best = [search_results["best"] for search_results in searches]
        rows.append(
            {"side": side, "runs": len(searches), "seconds": round(median(seconds), 1)}
            | ratio_columns("packed is × faster", seconds, packed)
            | {
                "winner": " ".join(str(winner["index"]) for winner in best),
                "its validation accuracy, %": round(100 * median(winner["score"] for winner in best), 2),
                "its test accuracy, %": round(100 * median(winner["test_accuracy"] for winner in best), 2),
            }
        )
    return rows


def count_equal_promotions(folders: list[Path]) -> tuple[int, int]:
    """Return how many rungs promoted the same trials in all searches, and how many rungs a search has."""
    names = sorted(path.name for path in (folders[0] / "rungs").iterdir())
    num_equal = 0
    for name in names:
        first, *others = [set(checkpoint.read_json(folder / "rungs" / name)["promoted"]) for folder in folders]
        num_equal += all(promoted == first for promoted in others)
    return num_equal, len(names)


def run_searches(options: argparse.Namespace, data: DataSettings) -> tuple[dict[str, list[dict[str, Any]]], list[Path]]:
    """Run the searches of all sides, alternately in each order, and return their results by side, and their folders."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    folders = []
    for repetition in range(options.repetitions):
        for side in reversed(SIDES) if repetition % 2 else SIDES:
            folder = options.runs.absolute() / f"{side.replace(' ', '-')}-{repetition}"
            settings = make_settings(side, options.epochs, data)
            search_settings = SearchSettings(method="hyperband", space=SPACE, eta=3)
            results[side].append(search(settings, search_settings, folder))
            folders.append(folder)
            seconds = results[side][-1]["seconds"]
            print(f"{side}, repetition {repetition}: {seconds:.1f} s", flush=True)
    return results, folders


def main() -> None:
    """Run the searches that have not finished, and write the table and the plot."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--epochs", type=int, default=27, help="epochs of the last rung")
    parser.add_argument("--images", type=int, default=20_000, help="training images, held-out ones included")
    parser.add_argument("--repetitions", type=int, default=2, help="searches of each side")
    options = parser.parse_args()
    with errors_in_one_line():
        data = replace(claim_data_settings(options), limit_train=options.images)
        results, folders = run_searches(options, data)
        num_equal, num_rungs = count_equal_promotions(folders)
        first = results["packed"][0]
        note = (
            f"{first['configurations']} configurations, {first['epochs_trained']} epochs in total, a tenth of the images "
            f"held out; {', '.join(SPACE)}; batch 32, fp32. Seconds are those of the rounds, with the start of their "
            f"processes and scoring. {num_equal} of {num_rungs} rungs promoted the same configurations in all searches."
        )
        write_table(options.out, table(results), [note], prepare_data(data))
        seconds = {side: [run["seconds"] for run in searches] for side, searches in results.items()}
        plot_bars(seconds, ["packed"], "seconds of the whole search", options.out / "plot.png", " s")


if __name__ == "__main__":
    main()
