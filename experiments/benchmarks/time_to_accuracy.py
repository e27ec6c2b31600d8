"""Wall time of a whole K = 2 run against end to end (K = 1 of the same code) on the same cores, to the same accuracy.

Both sides go through `partrain.run`, data in cache, defaults otherwise, each with several numbers of epochs, in turn.
The figure: the time of the cheapest K = 2 whose accuracy (mean over the repetitions, a seed each) is at most 0.3 points
below end to end's with the most epochs, over the time of that end-to-end run; beside it, the same against the cheapest
end-to-end run that is as accurate. Times are from the launch of the first segment to the end of the last, and of the
whole command from the plan to results.json (Python's start and the imports left out).

    python experiments/benchmarks/time_to_accuracy.py
    python experiments/benchmarks/time_to_accuracy.py --data glyphs --limit 4096 --epochs 2 --k2-epochs 1 2
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import machine, parser, write

import partrain
from partrain.data import DataSettings, prepare_data
from partrain.partition.plan import PartitionSettings
from partrain.training.optimization import TrainSettings

Case = tuple[int, int]  # segments, epochs


def data_settings(name: str | None, limit: int | None) -> DataSettings:
    """EMNIST ByMerge in $PARTRAIN_SHARED, or glyphs where that is not there or `name` says so."""
    shared = Path(os.environ.get("PARTRAIN_SHARED", "../shared")) / "emnist"
    if name == "glyphs" or (name is None and not shared.is_dir()):
        return DataSettings(limit_train=limit)
    return DataSettings(name="emnist", split="bymerge", root=str(shared.resolve()), download=False, limit_train=limit)


def run_once(case: Case, seed: int, data: DataSettings) -> dict[str, float]:
    """One whole run in a folder of its own: test accuracy in per cent, seconds of training and of the whole."""
    segments, epochs = case
    settings = partrain.RunSettings(
        seed=seed,
        data=data,
        partition=PartitionSettings(segments=segments),
        train=TrainSettings(epochs=epochs),
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = partrain.run(settings, folder, show=False)
        whole = time.perf_counter() - started
    return {"accuracy": 100 * results["test_accuracy"], "train": results["train_seconds"], "whole": whole}


def main() -> None:
    options = parser(__doc__, repetitions=3)
    options.add_argument("--data", choices=["emnist", "glyphs"], help="EMNIST ByMerge where it is, else glyphs")
    options.add_argument("--limit", type=int, help="use only the first so many training images, to try it out")
    options.add_argument("--epochs", type=int, nargs="+", default=[4, 5, 6, 8], help="of end to end")
    options.add_argument("--k2-epochs", type=int, nargs="+", default=[3, 4, 5, 6, 8], help="of K = 2")
    options.add_argument("--margin", type=float, default=0.3, help="points that K = 2 may be below end to end")
    given = options.parse_args()
    about, data = machine(), data_settings(given.data, given.limit)
    prepare_data(data)
    cases: list[Case] = [(1, epochs) for epochs in given.epochs] + [(2, epochs) for epochs in given.k2_epochs]
    run_once((2, 1), 0, data)  # so that the first case finds files and libraries as the others do
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for seed in range(given.repetitions):
        for case in cases if seed % 2 == 0 else reversed(cases):
            found[case].append(run_once(case, seed, data))
            print(case, seed, found[case][-1], flush=True)

    def of(case: Case, key: str) -> float:
        average = statistics.mean if key == "accuracy" else statistics.median
        return average(result[key] for result in found[case])

    rows = []
    for case in cases:
        rows.append(
            {
                "training": "end to end" if case[0] == 1 else f"K = {case[0]}",
                "epochs": case[1],
                "test accuracy, %": f"{of(case, 'accuracy'):.2f}",
                "training, s": of(case, "train"),
                "whole run, s": of(case, "whole"),
            }
        )
    reference: Case = (1, max(given.epochs))
    bar = of(reference, "accuracy") - given.margin
    cheapest = {k: cheapest_of([c for c in cases if c[0] == k and of(c, "accuracy") >= bar], of) for k in (1, 2)}
    notes = [f"Accuracy to reach: {bar:.2f} %, {given.margin} points below end to end with {reference[1]} epochs."]
    fair, best = cheapest[1] or reference, cheapest[2]
    if best is None:
        notes.append("No K = 2 run reaches it.")
    else:
        for key, name in (("train", "training"), ("whole", "whole run")):
            mine = of(best, key)
            notes.append(
                f"{name}: K = 2 with {best[1]} epochs takes **{mine / of(reference, key):.2f}** of end to end's time "
                f"with {reference[1]} epochs (the aim is 0.75 at most), {mine / of(fair, key):.2f} of it with {fair[1]}, "
                "the fewest that reach the same."
            )
    raw = [{"segments": case[0], "epochs": case[1], "runs": runs} for case, runs in found.items()]
    notes.append(
        f"Data: {data.name} {data.split or ''}, limit {data.limit_train}; not verified files, 14 % of ByMerge's "
        "training images."
        if data.name == "emnist"
        else f"Data: {data.name}, limit {data.limit_train}."
    )
    write(given.out, "time_to_accuracy", "Time to the same accuracy, K = 2 against end to end", rows, about, notes, raw)


def cheapest_of(cases: list[Case], of: Any) -> Case | None:
    """The case that trains in the least time."""
    return min(cases, key=lambda case: of(case, "train"), default=None)


if __name__ == "__main__":
    main()
