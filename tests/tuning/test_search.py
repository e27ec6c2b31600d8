"""Tests of searches with a trainer that trains nothing: the order of training, the files, and the messages."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_trainer import FakeTrainer, formula
from rich.console import Console
from scripting import contents, wait_until

from partrain.console import ProgressDisplay
from partrain.data import Dataset, Glyphs
from partrain.errors import UserError
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.rng import derive_seed
from partrain.settings import Parallel, RunSettings, Sequential
from partrain.storage import checkpoint
from partrain.strategies.settings import DataParallel
from partrain.training.optimization import TrainSettings
from partrain.tuning import page as search_page
from partrain.tuning.brackets import one_rung, successive_halving
from partrain.tuning.folder import RungResult
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings
from partrain.tuning.space import Space
from partrain.tuning.trainer import TrialRun
from partrain.tuning.trials import Trial
from partrain.tuning.view import SearchView, count_trained_epochs

SHARED = RunSettings(
    data=Glyphs(validation=0.1),
    network=MLP(depth=3, width=16),
    train=TrainSettings(epochs=9, batch_size=32),
    launch=Local(device="cpu", threads=1),
    report=ReportSettings(page=False),
)
SHORT = replace(SHARED, train=replace(SHARED.train, epochs=3))  # Brackets of 3 and of 2 trials.
SPACE = ["train.lr=loguniform(1e-4,1e-1)", "network.width=choice(8,16)"]
HYPERBAND = SearchSettings(space=SPACE)


class Searches:
    """A search in `folder` on a small data set, called with different settings."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder

    def do(
        self,
        trainer: FakeTrainer,
        settings: SearchSettings = HYPERBAND,
        shared: RunSettings = SHARED,
    ) -> dict[str, Any]:
        """Run the search with this trainer, and return its results."""
        return search(shared, settings, self.folder, self.dataset, trainer=trainer)

    def json(self, name: str) -> Any:
        """Return the contents of a JSON file of the search."""
        return checkpoint.read_json(self.folder / name)


@pytest.fixture
def searches(small: Dataset, tmp_path: Path) -> Searches:
    """Return a search in a temporary folder."""
    return Searches(small, tmp_path)


def test_brackets_advance_together(searches: Searches) -> None:
    trainer = FakeTrainer()
    searches.do(trainer)
    rungs = {path.stem: checkpoint.read_json(path) for path in (searches.folder / "rungs").iterdir()}
    assert sorted(rungs) == ["0-0", "1-0", "1-1", "2-0", "2-1", "2-2"]
    first, second, third = trainer.calls
    # Bracket 2 has the first nine, bracket 1 five, bracket 0 three.
    assert first == [(i, 1) for i in range(17)]
    assert second == [(i, 3) for i in (*sorted(rungs["2-0"]["promoted"]), *range(9, 17))]
    assert third == [(i, 9) for i in (*rungs["2-1"]["promoted"], *rungs["1-0"]["promoted"], 14, 15, 16)]
    assert [len(rungs[name]["promoted"]) for name in sorted(rungs)] == [0, 1, 0, 3, 1, 0]
    assert [rungs[name]["epochs"] for name in sorted(rungs)] == [9, 3, 9, 1, 3, 9]
    for rung in rungs.values():
        best = sorted(rung["scores"], key=lambda index: (-rung["scores"][index], int(index)))
        assert rung["promoted"] == [int(index) for index in best[: len(rung["promoted"])]]
        assert rung["failed"] == {}
    assert [searches.json(f"waves/{number}.json")["wave"] for number in range(3)] == [0, 1, 2]
    assert rungs["2-1"]["seconds"] == rungs["1-0"]["seconds"] == searches.json("waves/1.json")["seconds"]


def test_the_other_methods(small: Dataset, tmp_path: Path) -> None:
    trainer = FakeTrainer()
    halving = SearchSettings(method="successive_halving", configurations=10, space=SPACE)
    Searches(small, tmp_path / "halving").do(trainer, halving)
    assert [[epochs for _, epochs in call] for call in trainer.calls] == [[1] * 10, [3] * 3, [9]]
    trainer = FakeTrainer()
    random = SearchSettings(method="random", configurations=4, space=SPACE)
    Searches(small, tmp_path / "random").do(trainer, random)
    assert trainer.calls == [[(index, 9) for index in range(4)]]
    trainer = FakeTrainer()
    grid = Searches(small, tmp_path / "grid")
    grid.do(trainer, SearchSettings(method="grid", space=["seed=integer(0,1)", "network.width=choice(8,16)"]))
    assert trainer.calls == [[(index, 9) for index in range(4)]]
    assert [trial["values"] for trial in grid.json("configurations.json")] == [
        {"seed": seed, "network.width": width} for seed in (0, 1) for width in (8, 16)
    ]


def test_lower_losses_are_better(searches: Searches) -> None:
    settings = SearchSettings(method="random", configurations=3, space=SPACE, metric="validation_loss")
    results = searches.do(FakeTrainer(scores={0: 0.4, 1: 0.2, 2: 0.3}), settings)
    assert (results["best"]["index"], results["best"]["score"], results["metric"]) == (1, 0.2, "validation_loss")


def test_configurations_come_from_the_seed_and_their_index(searches: Searches) -> None:
    searches.do(FakeTrainer())
    drawn = searches.json("configurations.json")
    for index, trial in enumerate(drawn):
        values = Space.parse(SPACE).sample(np.random.default_rng(derive_seed(0, "configuration", index)))
        assert (trial["index"], trial["values"]) == (index, values)
    assert [trial["bracket"] for trial in drawn] == [2] * 9 + [1] * 5 + [0] * 3


def test_the_results(searches: Searches) -> None:
    trainer = FakeTrainer()
    results = searches.do(trainer)
    assert searches.json("results.json") == results
    drawn = searches.json("configurations.json")
    full = [index for call in trainer.calls for index, epochs in call if epochs == 9]
    assert len(full) == 5
    scores = {index: formula(run_of(drawn[index]["values"], 9)) for index in full}
    winner = max(scores, key=lambda index: scores[index])
    best = results["best"]
    assert (best["index"], best["values"], best["epochs"]) == (winner, drawn[winner]["values"], 9)
    assert (best["score"], best["test_accuracy"]) == (scores[winner], scores[winner] - 0.01)
    assert best["command"] is None  # The data are arrays given from Python.
    assert trainer.finished == [(winner, 9)]
    # Those dropped after 1 epoch, after 3 in either bracket, and those trained in full.
    assert results["epochs_trained"] == 6 * 1 + 2 * 3 + 4 * 3 + 5 * 9
    assert (results["method"], results["metric"]) == ("hyperband", "validation_accuracy")
    assert (results["configurations"], results["packed"]) == (17, False)
    assert results["data"] == searches.dataset.provenance()
    assert results["seconds"] == pytest.approx(
        sum(searches.json(f"waves/{number}.json")["seconds"] for number in range(3))
    )


def run_of(values: dict[str, Any], epochs: int) -> TrialRun:
    """Return a run with these values, for `formula`."""
    settings = RunSettings(train=TrainSettings(lr=values["train.lr"]))
    return TrialRun(index=0, settings=settings, folder=Path(), epochs=epochs)


def test_the_command_of_the_winner(searches: Searches) -> None:
    searches.dataset = replace(searches.dataset, name="glyphs")
    settings = SearchSettings(method="grid", space=["train.lr=choice(0.01,0.02)", "labels=choice(sparse)"])
    packed = replace(SHARED, grouping=Pack())
    results = searches.do(FakeTrainer(), settings, packed)
    assert results["packed"] is True
    assert results["best"]["command"] == (
        "partrain train network.depth=3 network.width=16 labels=sparse train.epochs=9 train.batch_size=32 "
        "train.lr=0.01 launch.device=cpu launch.threads=1 report.page=false"
    )


def test_the_leaderboard(searches: Searches) -> None:
    searches.do(FakeTrainer(failing={1: 0, 15: 0}))
    with (searches.folder / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["rank", "configuration", "bracket", "epochs", "score", "train.lr", "network.width", "outcome"]
    assert list(rows[0]) == names
    assert [row["rank"] for row in rows] == [*(str(rank) for rank in range(1, 16)), "", ""]
    ranked = [(int(row["epochs"]), float(row["score"])) for row in rows[:-2]]
    assert ranked == sorted(ranked, reverse=True)
    assert [epochs for epochs, _ in ranked] == [9] * 4 + [3] * 6 + [1] * 5
    assert int(rows[0]["configuration"]) == searches.json("results.json")["best"]["index"]
    assert [(row["configuration"], row["epochs"], row["score"]) for row in rows[-2:]] == [
        ("1", "0", ""),
        ("15", "0", ""),
    ]
    assert rows[-1]["outcome"] == "failed: segment 0: the loss is nan; see configurations/15/log.txt"
    assert (searches.folder / "leaderboard.md").read_text().splitlines()[0] == "| " + " | ".join(names) + " |"


def test_one_that_fails_is_dropped_and_named_and_the_others_go_on(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = FakeTrainer()
    Searches(small, tmp_path / "sound").do(sound)
    last, _ = sound.calls[2][0]  # This one is to fail in the last rung now.
    capsys.readouterr()
    searches, trainer = Searches(small, tmp_path / "search"), FakeTrainer(failing={4: 0, last: 3})
    results = searches.do(trainer)
    rung = searches.json("rungs/2-0.json")
    assert rung["scores"]["4"] is None
    assert rung["failed"] == {"4": "segment 0: the loss is nan; see configurations/4/log.txt"}
    assert 4 not in rung["promoted"]
    assert len(rung["promoted"]) == 3
    rung = searches.json("rungs/2-2.json")
    assert (rung["scores"], rung["promoted"]) == ({str(last): None}, [])
    assert results["best"]["index"] not in (4, last)
    lines = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert [line.split()[2] for line in lines] == ["4", str(last)]
    assert re.fullmatch(
        r"FAILED: configuration 4 \(train\.lr=[\d.e-]+, network\.width=\d+\): segment 0: the loss is nan; "
        r"see configurations/4/log\.txt",
        lines[0],
    )


def test_one_that_fails_on_the_way_to_a_rung_is_left_out_of_the_rounds_before_it(searches: Searches) -> None:
    reason = "segment 0: the loss is nan; see configurations/15/log.txt"
    trainer = FakeTrainer(failing={15: 2})  # It is of bracket 0, which is scored after 9 epochs.
    searches.do(trainer)
    assert [any(index == 15 for index, _ in call) for call in trainer.calls] == [True, True, False]
    assert [searches.json(f"waves/{number}.json")["failed"] for number in range(3)] == [{}, {"15": reason}, {}]
    rung = searches.json("rungs/0-0.json")
    assert (rung["scores"]["15"], rung["failed"]) == (None, {"15": reason})


def test_a_bracket_all_of_which_fail_on_the_way(searches: Searches) -> None:
    trainer = FakeTrainer(failing=dict.fromkeys((14, 15, 16), 2))
    results = searches.do(trainer)
    rung = searches.json("rungs/0-0.json")
    assert (rung["scores"], sorted(rung["failed"])) == (dict.fromkeys(("14", "15", "16")), ["14", "15", "16"])
    assert results["best"]["index"] < 14


def test_a_score_that_is_no_number_is_a_failure(searches: Searches, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SearchSettings(method="random", configurations=3, space=SPACE, metric="validation_loss")
    results = searches.do(FakeTrainer(scores={0: 0.4, 1: float("nan"), 2: 0.3}), settings)
    rung = json.loads((searches.folder / "rungs/0-0.json").read_text(), parse_constant=pytest.fail)
    assert (rung["scores"], rung["failed"]) == ({"0": 0.4, "1": None, "2": 0.3}, {"1": "its validation_loss is nan"})
    assert results["best"]["index"] == 2
    assert "): its validation_loss is nan\n" in capsys.readouterr().out


def test_where_those_that_went_on_all_fail_the_winner_is_the_best_of_the_others(searches: Searches) -> None:
    settings = SearchSettings(method="successive_halving", configurations=4, space=SPACE)
    trainer = FakeTrainer(failing={2: 3}, scores={0: 0.1, 1: 0.3, 2: 0.4, 3: 0.2})
    best = searches.do(trainer, settings)["best"]
    assert (best["index"], best["epochs"], best["score"]) == (1, 3, 0.3)
    assert trainer.finished == [(1, 3)]


def test_where_all_fail_the_first_reason_is_said(searches: Searches) -> None:
    failing = FakeTrainer(failing=dict.fromkeys(range(5), 0))
    for _ in range(2):  # The second time it reads the files of the first.
        with pytest.raises(UserError) as caught:
            searches.do(failing, shared=SHORT)
        assert re.fullmatch(
            r"All 5 configurations failed; the first was configuration 0 \(train\.lr=[\d.e-]+, network\.width=\d+\): "
            r"segment 0: the loss is nan; see configurations/0/log\.txt",
            str(caught.value),
        )
    assert len(failing.calls) == 1


class Killed(BaseException):
    """The error that stands for a process that is killed."""


def untimed(folder: Path) -> dict[str, Any]:
    """Return the contents of all files below `folder`, by name, without seconds."""
    files: dict[str, Any] = {}
    for name, data in contents(folder).items():
        files[name] = data
        if name.endswith(".json"):
            files[name] = values = json.loads(data)
            if isinstance(values, dict):
                values.pop("seconds", None)
    return files


class Dying:
    """A replacement of `checkpoint.write_atomic` that kills the process before it writes file `number`, from 1."""

    def __init__(self, number: int) -> None:
        self.files_left, self.write_atomic = number, checkpoint.write_atomic

    def __call__(self, path: Path, *arguments: Any, **options: Any) -> None:
        """Write the file, or raise `Killed`."""
        self.files_left -= 1
        if self.files_left <= 0:
            raise Killed
        self.write_atomic(path, *arguments, **options)


def test_killed_at_any_file_and_called_again_it_comes_to_the_same(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do(name: str) -> dict[str, Any]:
        return Searches(small, tmp_path / name).do(FakeTrainer(failing={3: 0}), shared=SHORT)

    do("first")  # The plans of its networks are in the cache then.
    counting = Dying(10_000)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", counting)
        do("whole")
    files = 10_000 - counting.files_left
    expected = untimed(tmp_path / "whole")
    # Manifest and trials; rungs; rounds; runs; results of the winner and of the search; the leaderboard.
    assert len(expected) == 3 + 3 + 2 + 4 + 2 + 2
    for number in range(1, files + 1):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_atomic", Dying(number))
            with pytest.raises(Killed):
                do(f"{number}")
        results = do(f"{number}")
        assert untimed(tmp_path / f"{number}") == expected, f"killed before file {number}"
        assert results["best"] == expected["results.json"]["best"]


def test_what_is_done_is_not_done_again(searches: Searches, capsys: pytest.CaptureFixture[str]) -> None:
    first = searches.do(FakeTrainer())
    before = contents(searches.folder)
    capsys.readouterr()
    again = FakeTrainer()
    assert searches.do(again) == first
    assert (again.calls, again.finished) == ([], [])
    assert contents(searches.folder) == before
    assert capsys.readouterr().out.splitlines()[1] == "3 of 3 rounds have finished already."


def test_a_folder_that_holds_another_search_is_refused_and_left_as_it_is(searches: Searches) -> None:
    searches.do(FakeTrainer())
    before = contents(searches.folder)
    changed = replace(SHARED, seed=1, network=MLP(depth=3, width=16, dropout=0.5))
    with pytest.raises(UserError) as caught:
        searches.do(FakeTrainer(), replace(HYPERBAND, eta=2), changed)
    assert str(caught.value) == (
        f"{searches.folder} holds another search: search.eta is 3 there, 2 here; seed is 0 there, 1 here; "
        "network.dropout is 0.0 there, 0.5 here; take a new folder"
    )
    assert contents(searches.folder) == before
    launch = Local(device="auto", threads=2, max_restarts=0)
    moved = replace(SHARED, report=ReportSettings(page=False), grouping=Pack(), launch=launch)
    searches.do(FakeTrainer(), shared=moved)


def test_a_search_that_began_before_grouping_was_a_setting_goes_on(searches: Searches) -> None:
    first = searches.do(FakeTrainer())
    path = searches.folder / "search.json"
    manifest = checkpoint.read_json(path)
    old = {"name": "local", "device": "cpu", "threads": 1, "pack": "auto", "pack_memory_gib": None}
    checkpoint.write_json(path, manifest | {"settings": manifest["settings"] | {"launch": old}})
    assert searches.do(FakeTrainer()) == first
    assert checkpoint.read_json(path) == manifest


@pytest.mark.parametrize(
    ("space", "shared", "message"),
    [
        ([], {}, "search.space is empty; "),
        (["train.lrr=uniform(0,1)"], {}, "train.lrr is not a setting; did you mean train.lr?"),
        (["train.epochs=integer(1,3)"], {}, "train.epochs cannot be searched: it is how long the last rungs train; "),
        (["train.lr=uniform(-2,-1)"], {}, "Cannot train configuration 0 (train.lr=-1"),
        (
            ["network.width=choice(wide,broad)"],
            {},
            "Cannot train configuration 0 (network.width=wide): network.width: 'wide' is not an integer",
        ),
        (
            ["partition.segments=integer(4,5)"],
            {},
            "Cannot train configuration 0 (partition.segments=4): "
            "partition.segments=4 is more than the network's 3 layers. ",
        ),
        (
            ["train.batch_size=choice(577,578)"],
            {},
            "Cannot train configuration 0 (train.batch_size=577): "
            "train.batch_size=577 is larger than the training set of 575 images",
        ),
        (
            ["strategy=choice(1f1b,gpipe)"],
            {},
            "Cannot train configuration 0 (strategy=1f1b): strategy=1f1b cannot be used in a search; "
            "set strategy=synthetic",
        ),
        (
            ["seed=choice(1,2)"],
            {"strategy": DataParallel()},
            "Cannot train configuration 0 (seed=1): strategy=data_parallel cannot be used in a search; ",
        ),
        (
            ["seed=choice(1,2)"],
            {"schedule": Sequential()},
            "Cannot train configuration 0 (seed=1): schedule=sequential cannot be used in a search, ",
        ),
        (
            ["seed=choice(1,2)"],
            {"schedule": Parallel(recovery_epochs=1)},
            "Cannot train configuration 0 (seed=1): schedule.recovery_epochs=1 cannot be used in a search, ",
        ),
        (
            ["seed=choice(1,2)"],
            {"train": TrainSettings(epochs=2)},
            "train.epochs=2 is too small for a bracket of hyperband",
        ),
        (
            ["seed=choice(1,2)"],
            {"launch": Local(device="tpu")},
            "launch.device=tpu: there is no such device here",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_begins(
    space: list[str], shared: dict[str, Any], message: str, searches: Searches
) -> None:
    trainer = FakeTrainer()
    with pytest.raises(UserError) as caught:
        searches.do(trainer, SearchSettings(space=space), replace(SHARED, **shared))
    assert str(caught.value).startswith(message)
    assert trainer.calls == []
    assert not list(searches.folder.iterdir())


def test_every_configuration_is_checked(searches: Searches) -> None:
    settings = SearchSettings(method="grid", space=["labels=choice(simplex,hadamard)", "network.width=choice(8,4)"])
    with pytest.raises(UserError) as caught:
        searches.do(FakeTrainer(), settings)
    assert str(caught.value).startswith(
        "Cannot train configuration 3 (labels=hadamard, network.width=4): "
        "labels=hadamard gives at most 3 classes at a boundary of "
    )


def test_a_bug_is_not_reported_as_a_mistake_in_a_configuration(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = ValueError("too many values to unpack")

    def fail(*_: object) -> None:
        raise bug

    monkeypatch.setattr("partrain.tuning.trials.prepare_run", fail)
    with pytest.raises(ValueError) as caught:
        searches.do(FakeTrainer())
    assert caught.value is bug


def test_partitions_and_seeds_are_searched(searches: Searches) -> None:
    settings = SearchSettings(
        method="grid", space=["partition.at=choice([1],[1,2])", "seed=choice(3,4)", "labels.scale=choice(1,2)"]
    )
    trained: list[RunSettings] = []

    class Trainer(FakeTrainer):
        def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
            trained.extend(run.settings for run in runs)
            assert [run.folder for run in runs] == [searches.folder / "configurations" / str(run.index) for run in runs]
            return super().train(runs)

    searches.do(Trainer(), settings)
    assert [(settings.partition, settings.seed, settings.labels.scale) for settings in trained] == [
        (PartitionSettings(at=at), seed, scale) for at in ([1], [1, 2]) for seed in (3, 4) for scale in (1.0, 2.0)
    ]


def test_a_dry_run_lists_the_configurations_and_leaves_nothing(
    searches: Searches, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SearchSettings(method="grid", space=["network.width=choice(8,16)"])
    assert searches.do(FakeTrainer(), settings, replace(SHARED, partition=PartitionSettings(dry_run=True))) == {}
    assert capsys.readouterr().out.splitlines() == [
        "Grid search: 2 configurations in 1 bracket, 18 epochs in total",
        "Bracket 0: configuration 0 (network.width=8)",
        "Bracket 0: configuration 1 (network.width=16)",
    ]
    assert not list(searches.folder.iterdir())


def test_what_is_said_as_it_goes_on(searches: Searches, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SearchSettings(method="successive_halving", configurations=3, space=["network.width=choice(8,16)"])
    searches.do(FakeTrainer(scores={0: 0.8, 1: 0.8412, 2: 0.7}), settings, SHORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Successive halving: 3 configurations in 1 bracket, 5 epochs in total"
    width = searches.json("configurations.json")[1]["values"]["network.width"]
    assert re.fullmatch(
        rf"Round 1/2, bracket 1, rung 0: 3 configurations trained up to epoch 1, best 84\.12 % "
        rf"\(configuration 1: network\.width={width}\), 1 promoted; about 0\.\d s left",
        lines[1],
    )
    assert lines[2] == (
        f"Round 2/2, bracket 1, rung 1: 1 configuration trained up to epoch 3, best 84.12 % "
        f"(configuration 1: network.width={width}); all done"
    )
    table = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[:5] for row in table] == [
        ["1", "1", "1", "3", "84.12 %"],
        ["2", "0", "1", "1", "80.00 %"],
        ["3", "2", "1", "1", "70.00 %"],
    ]
    assert [row[-1] for row in table] == ["best", "dropped", "dropped"]
    assert lines[-2] == (
        f"Best: configuration 1 (network.width={width}), validation accuracy 84.12 %, test accuracy 3.37 %"
    )
    assert lines[-1] == f"Search folder: {searches.folder}"


def test_nothing_is_said_but_failures_where_nothing_is_to_be_shown(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(SHORT, HYPERBAND, tmp_path, small, show_progress=False, trainer=FakeTrainer(failing={2: 0}))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("FAILED: configuration 2 (")


def test_the_page_follows_the_rounds(searches: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Path, float | None]] = []
    monkeypatch.setattr(search_page, "write_search_page", lambda folder, refresh: written.append((folder, refresh)))
    shown = replace(SHORT, report=ReportSettings(refresh=5))
    searches.do(FakeTrainer(), shared=shown)
    assert written == [(searches.folder, 5), (searches.folder, 5), (searches.folder, None)]
    searches.do(FakeTrainer(), shared=replace(shown, report=ReportSettings(page=False, refresh=5)))
    assert len(written) == 3


def test_after_ctrl_c_the_way_to_go_on_is_said(searches: Searches, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakeTrainer):
        def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searches.do(Interrupted())
    again = f"call partrain.search with the same arguments and the folder {searches.folder}"
    assert capsys.readouterr().out.splitlines()[-1] == f"Progress is saved. To continue: {again}"


def test_on_a_terminal_a_bar_follows_the_epochs(tmp_path: Path) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, color_system=None)
    brackets = successive_halving(3, 3, 3, 1)
    trials = [Trial(index=index, bracket=1, values={"seed": index}) for index in range(3)]
    runs = [TrialRun(index=index, settings=SHORT, folder=tmp_path / str(index), epochs=1) for index in range(3)]
    first = RungResult(bracket=1, rung=0, epochs=1, scores={0: 0.5}, failed={}, promoted=[0], seconds=1.0)
    display = ProgressDisplay(show_progress=True, show_time_left=False, output=terminal)
    with SearchView(brackets, trials, "validation_accuracy", display, poll_seconds=0.01) as view:
        view.begin_round(runs)
        for run in runs[:2]:
            checkpoint.write_json(run.folder / "segments/0/progress.json", {"epoch": 1, "epoch_ended": True})
        wait_until(lambda: "2/5" in out.getvalue())
        assert "Round 1/2" in out.getvalue()
        assert re.search(r"epochs  about [\d.]+ s left", out.getvalue())
        view.end_round([first])
        view.begin_round([replace(runs[0], epochs=3)])
        checkpoint.write_json(runs[0].folder / "segments/0/progress.json", {"epoch": 2, "epoch_ended": True})
        wait_until(lambda: "4/5" in out.getvalue())
        view.end_round([])
    assert "5/5 epochs  all done" in out.getvalue()
    assert "bracket 1, rung 0" not in out.getvalue()  # Lines are printed only without a bar.


def test_a_round_may_end_while_the_bar_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last round too, after which there is none whose first epoch could be asked for."""
    trials = [Trial(index=0, bracket=1, values={"seed": 0})]
    run = TrialRun(index=0, settings=SHORT, folder=tmp_path, epochs=2)
    out = io.StringIO()
    display = ProgressDisplay(show_time_left=False, output=Console(file=out, force_terminal=True, color_system=None))
    with SearchView(one_rung(1, 2), trials, "validation_accuracy", display, poll_seconds=1e9) as view:

        def end_meanwhile(folder: Path) -> int:
            view.end_round([])
            return 1

        view.begin_round([run])
        monkeypatch.setattr("partrain.tuning.view.count_trained_epochs", end_meanwhile)
        view.move_bar()
    assert "2/2 epochs  all done" in out.getvalue()
    assert "1/2 epochs" not in out.getvalue()


def test_trained_epochs_are_those_of_the_segment_that_is_furthest(tmp_path: Path) -> None:
    assert count_trained_epochs(tmp_path) == 0
    for index, epochs in enumerate((3, 1)):
        checkpoint.write_json(tmp_path / f"segments/{index}/progress.json", {"epoch": epochs, "epoch_ended": True})
    assert count_trained_epochs(tmp_path) == 3
    checkpoint.write_json(tmp_path / "segments/0/progress.json", {"epoch": 3, "epoch_ended": False})
    assert count_trained_epochs(tmp_path) == 2
