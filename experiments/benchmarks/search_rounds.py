"""How long the later rounds of a search take to start: from the request for a round's trainings to their first step.

A round starts processes anew: those that train, and before them the one that scored the round before. The seconds
between rounds are those from the last report of a round to the first of the next, with scoring and promotions.

    python experiments/benchmarks/search_rounds.py
    python experiments/benchmarks/search_rounds.py --repetitions 1 --groupings alone --processes fork
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from unittest import mock

from measuring import Report, machine_facts, make_parser

import partrain
from partrain.data.settings import Glyphs
from partrain.settings import GROUPINGS
from partrain.training.optimization import TrainSettings
from partrain.tuning.rungs import RungTrainer
from partrain.tuning.settings import SearchSettings
from partrain.tuning.trainer import TrialRun

POLL_SECONDS = 0.002


def main() -> None:
    """Measure all in turn, and write the report."""
    options = parse_options()
    partrain.prepare_data(Glyphs())
    machine = machine_facts()
    sides = [(grouping, processes) for grouping in options.groupings for processes in options.processes]
    for side in sides:
        measure_rounds(*side)  # From now on files are in the page cache, and the zygote has imported what is needed.
    rounds = [{side: measure_rounds(*side) for side in sides} for _ in range(options.repetitions)]
    rows = []
    for grouping, processes in sides:
        starts, gaps = zip(*(one[grouping, processes] for one in rounds), strict=True)
        rows.append(
            {
                "grouping": grouping,
                "launch.processes": processes,
                "later round, request to first step, s": statistics.median(chain(*starts)),
                "between rounds, s": statistics.median(chain(*gaps)),
            }
        )
    Report(
        name="search_rounds",
        title="The start of a search's later rounds",
        rows=rows,
        machine=machine,
        notes=["The aim, forked: 0.5 s at most from the request to the first step."],
        raw=[{f"{grouping}, {processes}": one[grouping, processes] for grouping, processes in one} for one in rounds],
    ).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=5)
    parser.add_argument("--groupings", nargs="+", default=["alone", "pack"], help="groupings (%(default)s)")
    parser.add_argument("--processes", nargs="+", default=["fork", "fresh"], help="how they start (%(default)s)")
    return parser.parse_args()


def measure_rounds(grouping: str, processes: str) -> tuple[list[float], list[float]]:
    """Do a search by successive halving with three rounds.

    Returns:
        The seconds from the request for each later round to its first step, and those between rounds.
    """
    settings = partrain.RunSettings(
        partition=partrain.PartitionSettings(segments=1),
        grouping=GROUPINGS.from_dict({"name": grouping}),
        launch=partrain.Local(device="cpu", threads=1, processes=processes),
        train=TrainSettings(epochs=4, early_stop=0, batch_size=100),
        data=Glyphs(limit_train=20_000, limit_test=1000, validation=0.1),
        report=partrain.ReportSettings(page=False),
    )
    halving = SearchSettings(
        method="successive_halving", configurations=4, eta=2, min_epochs=1, space=["train.lr=loguniform(1e-4,1e-2)"]
    )
    requests: list[float] = []
    train = RungTrainer.train

    def train_at(trainer: RungTrainer, runs: Sequence[TrialRun]) -> dict[int, str]:
        requests.append(time.perf_counter())
        return train(trainer, runs)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(RungTrainer, "train", train_at),
        watch_reports(Path(folder)) as reports,
    ):
        partrain.search(settings, halving, folder, show_progress=False)
    firsts = [next(moment for moment in reports if moment > request) for request in requests]
    lasts = [max(moment for moment in reports if moment < request) for request in requests[1:]]
    starts = [first - request for request, first in zip(requests, firsts, strict=True)][1:]
    return starts, [first - last for first, last in zip(firsts[1:], lasts, strict=True)]


@contextmanager
def watch_reports(folder: Path) -> Iterator[list[float]]:
    """Yield a list of the moments at which any training below `folder` reports its progress, by `time.perf_counter`."""
    moments: list[float] = []
    versions: dict[Path, int] = {}
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.is_set():
            for path in folder.glob("*/*/segments/*/progress.json"):
                version = path.stat().st_mtime_ns
                if versions.get(path) != version:
                    versions[path] = version
                    moments.append(time.perf_counter())
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield moments
    finally:
        has_ended.set()
        thread.join()


if __name__ == "__main__":
    main()
