"""Wall time of a whole K = 2 run over that of end to end (K = 1 of the same code), on the same cores, to equal accuracy.

Both sides go through `partrain.run` with the data in the cache and defaults otherwise, each with several numbers of
epochs, in turn. An accuracy is the mean over the repetitions, one seed each.

K = 2 is accurate enough at 0.3 points below end to end with the most epochs. The figure is the time of the cheapest such
K = 2 over the time of that end-to-end run. Beside it is the same over the cheapest end-to-end run that is accurate enough.

Times are from the launch of the first segment to the end of the last ("training"), and from the plan to results.json
("whole run"), without the start of Python and the imports.

    python experiments/benchmarks/time_to_accuracy.py
    python experiments/benchmarks/time_to_accuracy.py --data glyphs --limit 4096 --epochs 2 --k2-epochs 1 2
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import Report, machine_facts, make_parser

import partrain
from partrain.data import DataSettings, prepare_data
from partrain.data.settings import EMNIST, Glyphs
from partrain.partition.plan import PartitionSettings
from partrain.training.optimization import TrainSettings


@dataclass(frozen=True)
class Case:
    """A way to train, and the results of its runs, one for each seed.

    Attributes:
        segments: Number of segments.
        epochs: Number of epochs.
        runs: For each run "accuracy" in per cent, and the seconds "train" and "whole".
    """

    segments: int
    epochs: int
    runs: list[dict[str, float]] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Return the mean test accuracy, in per cent."""
        return statistics.mean(run["accuracy"] for run in self.runs)

    def seconds(self, key: str) -> float:
        """Return the median seconds of training ("train") or of the whole run ("whole")."""
        return statistics.median(run[key] for run in self.runs)

    def row(self) -> dict[str, Any]:
        """Return the row of the table."""
        return {
            "training": "end to end" if self.segments == 1 else f"K = {self.segments}",
            "epochs": self.epochs,
            "test accuracy, %": f"{self.accuracy:.2f}",
            "training, s": self.seconds("train"),
            "whole run, s": self.seconds("whole"),
        }


def main() -> None:
    """Train all cases, and write the report."""
    options = parse_options()
    machine, data = machine_facts(), data_settings(options.data, options.limit)
    prepare_data(data)
    cases = [Case(1, epochs) for epochs in options.epochs] + [Case(2, epochs) for epochs in options.k2_epochs]
    train_all(cases, data, options.repetitions)
    Report(
        name="time_to_accuracy",
        title="Time to the same accuracy, K = 2 against end to end",
        rows=[case.row() for case in cases],
        machine=machine,
        notes=[*compare(cases, options.margin), describe_data(data)],
        raw=[{"segments": case.segments, "epochs": case.epochs, "runs": case.runs} for case in cases],
    ).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=3)
    parser.add_argument(
        "--data", choices=["emnist", "glyphs"], help="by default EMNIST ByMerge if present, else glyphs"
    )
    parser.add_argument("--limit", type=int, help="number of training images to use, the first ones, to try it out")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 5, 6, 8], help="epochs of end to end")
    parser.add_argument("--k2-epochs", type=int, nargs="+", default=[3, 4, 5, 6, 8], help="epochs of K = 2")
    parser.add_argument("--margin", type=float, default=0.3, help="points that K = 2 may be below end to end")
    return parser.parse_args()


def data_settings(name: str | None, limit: int | None) -> DataSettings:
    """Return EMNIST ByMerge in $PARTRAIN_SHARED, or glyphs if that is missing or `name` asks for them."""
    shared = Path(os.environ.get("PARTRAIN_SHARED", "../shared")) / "emnist"
    if name == "glyphs" or (name is None and not shared.is_dir()):
        return Glyphs(limit_train=limit)
    return EMNIST(split="bymerge", root=str(shared.resolve()), download=False, limit_train=limit)


def describe_data(data: DataSettings) -> str:
    """Return the sentence about the data below the table."""
    if not isinstance(data, EMNIST):
        return f"Data: {data.name}, limit {data.limit_train}."
    return (
        f"Data: {data.name} {data.split}, limit {data.limit_train}; not verified files, 14 % of ByMerge's "
        "training images."
    )


def train_all(cases: Sequence[Case], data: DataSettings, repetitions: int) -> None:
    """Train every case with every seed, and add the results to the cases."""
    train_once(Case(2, 1), 0, data)  # The first case then finds files and libraries in memory, as the others do.
    for seed in range(repetitions):
        for case in cases if seed % 2 == 0 else reversed(cases):
            case.runs.append(train_once(case, seed, data))
            print((case.segments, case.epochs), seed, case.runs[-1], flush=True)


def train_once(case: Case, seed: int, data: DataSettings) -> dict[str, float]:
    """Do one whole run in a temporary folder; return test accuracy in per cent, and seconds of training and of all."""
    settings = partrain.RunSettings(
        seed=seed,
        data=data,
        partition=PartitionSettings(segments=case.segments),
        train=TrainSettings(epochs=case.epochs),
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = partrain.run(settings, folder, show_progress=False)
        whole = time.perf_counter() - started
    return {"accuracy": 100 * results["test_accuracy"], "train": results["train_seconds"], "whole": whole}


def compare(cases: Sequence[Case], margin: float) -> list[str]:
    """Return the sentences that compare the cheapest K = 2 with end to end."""
    reference = max((case for case in cases if case.segments == 1), key=lambda case: case.epochs)
    target = reference.accuracy - margin
    notes = [f"Accuracy to reach: {target:.2f} %, {margin} points below end to end with {reference.epochs} epochs."]
    cheapest = cheapest_case([case for case in cases if case.segments == 2 and case.accuracy >= target])
    if cheapest is None:
        return [*notes, "No K = 2 run reaches it."]
    equal = cheapest_case([case for case in cases if case.segments == 1 and case.accuracy >= target]) or reference
    for key, name in (("train", "training"), ("whole", "whole run")):
        seconds = cheapest.seconds(key)
        notes.append(
            f"{name}: K = 2 with {cheapest.epochs} epochs takes **{seconds / reference.seconds(key):.2f}** of end to "
            f"end's time with {reference.epochs} epochs (the aim is 0.75 at most), {seconds / equal.seconds(key):.2f} "
            f"of it with {equal.epochs}, the fewest that reach the same."
        )
    return notes


def cheapest_case(cases: Sequence[Case]) -> Case | None:
    """Return the case that trains in the least time, or None without any."""
    return min(cases, key=lambda case: case.seconds("train"), default=None)


if __name__ == "__main__":
    main()
