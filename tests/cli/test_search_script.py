"""Tests of experiments/search.py as a user runs it: the search space, and mistakes that are reported in one line."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_trainer import FakeTrainer
from scripting import DATA, TINY, begun_in, run_script

from partrain.cli.config import split_search_arguments
from partrain.runs.command import local_command
from partrain.storage import checkpoint
from partrain.tuning.trainer import TrialRun

LR, KNOWN = (
    "train.lr=loguniform(1e-4,1e-1)",
    "choice(a,b,...), integer(low,high), loginteger(low,high), loguniform(low,high), uniform(low,high)",
)


def test_what_is_searched_is_set_apart_from_what_hydra_reads() -> None:
    words = [LR, "seed=3", "+network.options.width=choice(1,2)", "labels=normal(0,1)", "partition.at=[2,4]"]
    others = ["search.space=[x(1)]", "hydra.run.dir=runs(1)", "data.root=/a (b)", "network.name=my:make(1)"]
    assert split_search_arguments([*words, *others]) == (
        ["seed=3", "partition.at=[2,4]", *others],
        [words[0], words[2], words[3]],
    )


def test_several_searches_at_once(tmp_path: Path) -> None:
    outcome = run_script("search", "-m", "seed=0,1", LR, f"hydra.sweep.dir={tmp_path}")
    assert outcome.code == 1
    assert outcome.error == ("error: --multirun: a search tries several values itself; give them as seed=choice(0,1,2)")
    assert begun_in(tmp_path) == []


MISTAKES = {
    "": "search.space is empty; give at least one setting, e.g. 'train.lr=loguniform(1e-4,1e-1)'",
    "train.lr=loguniform(1e-1,1e-4)": (
        "train.lr=loguniform(1e-1,1e-4): the lower bound must be first; write loguniform(0.0001,0.1)"
    ),
    "train.lr=normal(0,1)": f"train.lr=normal(0,1): normal is unknown; known: {KNOWN}",
    "train.lr=uniform(0,1": (
        f"search.space: 'train.lr=uniform(0,1' is not <setting>=<distribution>(...); the distributions are {KNOWN}"
    ),
    f"{LR} {LR}": "search.space: train.lr is given twice; give it once",
    "train.lrr=uniform(0,1)": "train.lrr is not a setting; did you mean train.lr?",
    "data=choice(mnist,emnist)": (
        "data cannot be searched: scores on different data cannot be compared; give it one value"
    ),
    "network.width=choice(wide)": (
        "Cannot train configuration 0 (network.width=wide): network.width: 'wide' is not an integer"
    ),
    "labels=choice(fourier)": (
        "Cannot train configuration 0 (labels=fourier): labels=fourier is unknown; known: "
        "binary, custom, gaussian, hadamard, simplex, sparse, uniform"
    ),
    f"{LR} search.metric=f1": "search.metric=f1 is unknown; known: validation_accuracy, validation_loss",
    f"{LR} search.method=annealing": (
        "search.method=annealing is unknown; known: grid, hyperband, random, successive_halving"
    ),
    f"{LR} search.method=random": "search.method=random needs search.configurations=<how many>",
    f"{LR} search.method=grid": (
        "train.lr=loguniform(0.0001,0.1) is continuous, which search.method=grid cannot search; "
        "give choice(a,b,...) or integer(low,high)"
    ),
    f"{LR} search.eat=2": "search.eat is not a setting; did you mean search.eta?",
    f"{LR} data.validation=2": "data.validation must be between 0 and 1, got 2.0",
    f"{LR} data.validation=null": "a search scores trials on held-out images; set data.validation, such as to 0.1",
    f"{LR} search.space=3": "search.space: Invalid value assigned: int is not a ListConfig, list or tuple.",
    f"{LR} train.epochs=2": (
        "train.epochs=2 is too small for a bracket of hyperband with search.eta=3 and search.min_epochs=1; "
        "set it to at least 3"
    ),
    f"{LR} search.method=successive_halving search.configurations=2": (
        "search.configurations=2 is too small for a bracket of successive_halving with search.eta=3; "
        "set it to at least 3"
    ),
    f"{LR} resume=runs/x": "resume=runs/x is no search's folder: it needs config.yaml and search.json",
    f"{LR} objective=test_accuracy": "objective=test_accuracy is a setting of partrain train; leave it out",
    f"{LR} strategy=gpipe": (
        "Cannot train configuration 0 (train.lr=0.00184): strategy=gpipe cannot be used in a search; "
        "set strategy=synthetic"
    ),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words: str, tmp_path: Path) -> None:
    outcome = run_script("search", *DATA, *words.split(), f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1
    assert outcome.error == f"error: {MISTAKES[words]}"
    assert begun_in(tmp_path) == []


class Interrupted(FakeTrainer):
    """A trainer that is interrupted by Ctrl-C in the second round."""

    def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
        """Raise `KeyboardInterrupt`, except in the first call."""
        if self.calls:
            raise KeyboardInterrupt
        return super().train(runs)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[FakeTrainer]:
    """Return a list of the trainers that searches use in turn, in place of partrain's own trainer."""
    waiting: list[FakeTrainer] = []
    monkeypatch.setattr("partrain.tuning.search.RungTrainer", lambda *arguments, **options: waiting.pop(0))
    return waiting


def test_a_search_stopped_and_gone_on_with(trainers: list[FakeTrainer], tmp_path: Path) -> None:
    trainers += [Interrupted(), FakeTrainer(), FakeTrainer()]
    words = [*TINY, "train.epochs=3", "report.page=false", "search.space=['seed=choice(1,2)']", LR]
    stopped = run_script("search", *words, f"hydra.run.dir={tmp_path}")
    assert stopped.code == 130
    *_, again, last = stopped.out.splitlines()
    assert last == "Stopped."
    words_again = [f"resume={tmp_path}", "launch.device=cpu", "launch.threads=1"]
    assert again == f"Progress is saved. To continue: {local_command('search', words_again)}"
    promoted = checkpoint.read_json(tmp_path / "rungs/1-0.json")["promoted"]
    done = run_script("search", *words_again)
    assert done.code == 0, done.err
    assert done.out.splitlines()[1] == "1 of 2 rounds have finished already."
    results = checkpoint.read_json(tmp_path / "results.json")
    assert list(results["best"]["values"]) == ["seed", "train.lr"]
    command = local_command("train", shlex.split(results["best"]["command"])[2:])
    assert f"To train it on all training images: {command}" in done.out.splitlines()
    assert "data.validation" not in results["best"]["command"]
    assert list(checkpoint.read_json(tmp_path / "rungs/1-1.json")["scores"]) == [str(promoted[0])]
    refused = run_script("search", *words, "data.validation=0.2", f"hydra.run.dir={tmp_path}")
    assert refused.error == (
        f"error: {tmp_path} holds another search: data.validation is 0.1 there, 0.2 here; take a new folder"
    )
    refused = run_script("search", f"resume={tmp_path}", "train.lr=choice(1,2)")
    assert refused.error == (
        f"error: resume={tmp_path}: it does not search train.lr=choice(1,2); leave it out, or start anew in a new folder"
    )
    refused = run_script("search", f"resume={tmp_path}", "search.eta=2")
    assert refused.error == (
        f"error: resume={tmp_path}: it has search.eta=3, but the command line has search.eta=2; "
        "leave it out, or start anew in a new folder"
    )


def test_a_search_in_which_all_fail(trainers: list[FakeTrainer], tmp_path: Path) -> None:
    trainers += [FakeTrainer(failing={0: 0, 1: 0})]
    words = ["search.method=grid", "train.lr=choice(5,6)", "report.page=false"]
    outcome = run_script("search", *TINY, *words, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1
    assert outcome.error == (
        "error: All 2 configurations failed; the first was configuration 0 (train.lr=5): segment 0: the loss is nan; "
        "see configurations/0/log.txt"
    )


def test_a_configuration_that_was_not_promoted_goes_on_as_a_run_with_its_own_images(tmp_path: Path) -> None:
    halving = ["search.method=successive_halving", "search.configurations=3", "train.epochs=3"]
    words = [*TINY, *halving, "report.page=false", "partition.segments=1", LR]
    searched = run_script("search", *words, f"hydra.run.dir={tmp_path}")
    assert searched.code == 0, searched.err
    promoted = checkpoint.read_json(tmp_path / "rungs/1-0.json")["promoted"]
    left_behind = min({0, 1, 2} - set(promoted))
    folder = tmp_path / f"configurations/{left_behind}"
    paused = checkpoint.load_metadata(folder / "segments/0/checkpoint.safetensors")
    assert (paused["step"], paused["finished"]) == (11, False)  # batches of 50, as 47 of 600 images are held out

    resumed = run_script("train", f"resume={folder}", "launch.device=cpu", "launch.threads=1")
    assert resumed.code == 0, resumed.err
    assert f"Test accuracy {checkpoint.read_json(folder / 'results.json')['test_accuracy']:.2%}" in resumed.out
    finished = checkpoint.load_metadata(folder / "segments/0/checkpoint.safetensors")
    assert (finished["step"], finished["finished"]) == (33, True)
    assert checkpoint.read_json(folder / "segments/0/task.json")["num_images"] == 553
