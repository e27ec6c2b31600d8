"""The record of a search, finished or not, as the files in its folder describe it to pages and leaderboards."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partrain.report.formatting import dataset_name
from partrain.report.record import CurvePoint, ProcessRecord
from partrain.storage.run_folder import SEGMENTS
from partrain.tuning.brackets import Bracket, Rung
from partrain.tuning.folder import RungResult, SearchFolder
from partrain.tuning.settings import format_score
from partrain.tuning.trials import Trial

METHOD_TITLES = {
    "random": "Random search",
    "grid": "Grid search",
    "successive_halving": "Successive halving",
    "hyperband": "Hyperband",
}


@dataclass(frozen=True)
class RungRecord:
    """A rung of a bracket, as planned, and its result once all its trials are trained or have failed."""

    number: int
    """The number of the rung in its bracket, from 0."""
    plan: Rung
    first_epoch: int
    """How many epochs the trials have trained before the rung begins."""
    result: RungResult | None

    @property
    def epochs(self) -> int:
        """Return how many epochs the trials have trained when the rung ends."""
        return self.plan.epochs

    @property
    def scores(self) -> dict[int, float | None]:
        """Return the score of each trial, None for one that failed; empty until the rung has ended."""
        return self.result.scores if self.result else {}

    @property
    def failures(self) -> dict[int, str]:
        """Return the reason of each failure, by trial."""
        return self.result.failed if self.result else {}

    @property
    def promoted(self) -> list[int]:
        """Return the trials that train on in the next rung, best first."""
        return self.result.promoted if self.result else []

    @property
    def is_finished(self) -> bool:
        """Return whether the rung has ended."""
        return bool(self.scores)

    @property
    def num_trials(self) -> int:
        """Return how many trials the rung has: fewer than planned if too many failed in the rung before."""
        return len(self.scores) or self.plan.num_trials

    @property
    def epochs_trained(self) -> int:
        """Return the epochs that the rung trains, summed over its trials; those that fail in it count none."""
        num_trained = self.plan.num_trials
        if self.is_finished:
            num_trained = sum(score is not None for score in self.scores.values())
        return num_trained * (self.epochs - self.first_epoch)


@dataclass(frozen=True)
class RungScore:
    """A score of a trial at the end of a rung, after `epochs` epochs."""

    epochs: int
    score: float


@dataclass(frozen=True)
class TrialRecord:
    """A trial and its results so far."""

    trial: Trial
    scores: list[RungScore]
    """The scores of the rungs that the trial has finished, in order."""
    failure: str
    """The reason why the trial failed, or an empty text."""

    @property
    def index(self) -> int:
        """Return the trial's index in the search."""
        return self.trial.index

    @property
    def bracket(self) -> int:
        """Return the number of the trial's bracket."""
        return self.trial.bracket

    @property
    def values(self) -> dict[str, Any]:
        """Return the values of the searched settings, by name."""
        return self.trial.values

    @property
    def epochs(self) -> int:
        """Return how many epochs the trial had trained at the end of the last rung that it finished."""
        return self.scores[-1].epochs if self.scores else 0

    @property
    def score(self) -> float | None:
        """Return the latest score, or None before the first one and after a failure."""
        return self.scores[-1].score if self.scores and not self.failure else None


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """A search as the files in its folder describe it."""

    folder: Path
    search: dict[str, Any]
    """The fields of `SearchSettings`, or empty before the search has begun."""
    settings: dict[str, Any]
    """The settings that all trials share, or empty before the search has begun."""
    machine: dict[str, Any]
    brackets: dict[int, list[RungRecord]]
    """The rungs of each bracket, by the bracket's number."""
    trials: dict[int, TrialRecord]
    """All trials, by index."""
    round_seconds: list[float]
    """How long each round has taken so far, in seconds."""
    results: dict[str, Any]
    """The contents of results.json, or empty until the search has finished."""

    @classmethod
    def read(cls, path: Path) -> "SearchRecord":
        """Read the files of the search in the folder `path`, as far as they are there and not damaged."""
        folder = SearchFolder(path, skip_damaged=True)
        manifest = folder.manifest()
        brackets = {bracket.number: _rung_records(folder, bracket) for bracket in manifest.brackets}
        trials = folder.trials()
        return cls(
            folder=path,
            search=manifest.search,
            settings=manifest.settings,
            machine=manifest.machine,
            brackets=brackets,
            trials={trial.index: _trial_record(trial, brackets.get(trial.bracket, [])) for trial in trials},
            round_seconds=folder.round_seconds(),
            results=folder.results(),
        )

    # ---- The search as a whole.

    @property
    def method(self) -> str:
        """Return the name of the search method, as a title."""
        name = str(self.results.get("method") or self.search.get("method") or "search")
        return METHOD_TITLES.get(name, name.replace("_", " ").capitalize())

    @property
    def distributions(self) -> dict[str, str]:
        """Return the distribution of each searched setting by name, such as "loguniform(1e-4,1e-1)"."""
        entries = (str(entry).partition("=") for entry in self.search.get("space", []))
        return {name.strip().lstrip("+"): distribution.strip() for name, _, distribution in entries}

    @property
    def data(self) -> str:
        """Return the name and the split of the data set."""
        return dataset_name(self.provenance or self.settings.get("data", {}))

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the data, or an empty dictionary until the search has finished."""
        return dict(self.results.get("data", {}))

    @property
    def packed(self) -> bool | None:
        """Return whether trials were trained in packs, or None until the search has finished."""
        return self.results.get("packed")

    @property
    def seconds(self) -> float:
        """Return how long the search has taken so far, in seconds."""
        return float(self.results.get("seconds") or sum(self.round_seconds))

    @property
    def epochs_trained(self) -> int:
        """Return how many epochs have been trained so far, summed over all trials."""
        stored = self.results.get("epochs_trained")
        return stored or sum(rung.epochs_trained for rung in self.rungs() if rung.is_finished)

    @property
    def round_stops(self) -> list[int]:
        """Return the epoch at which each round ends, round by round."""
        return sorted({rung.epochs for rung in self.rungs()})

    @property
    def max_epochs(self) -> int:
        """Return how many epochs a trial trains that is promoted to the last rung of its bracket."""
        return max((rung.epochs for rung in self.rungs()), default=0)

    def rungs(self) -> Iterator[RungRecord]:
        """Yield the rungs of all brackets."""
        for rungs in self.brackets.values():
            yield from rungs

    # ---- Scores.

    @property
    def metric(self) -> str:
        """Return the metric of all scores, validation_accuracy or validation_loss."""
        return str(self.search.get("metric") or self.results.get("metric") or "validation_accuracy")

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher score is better."""
        return not self.metric.endswith("loss")

    @property
    def metric_label(self) -> str:
        """Return the name of the metric for texts."""
        return self.metric.replace("_", " ")

    @property
    def score_axis(self) -> str:
        """Return the title of an axis of scores, with the unit."""
        return self.metric_label + (", %" if self.higher_is_better else "")

    def sort_key(self, score: float | None) -> float:
        """Return a number that is lower for a better score, and infinite without a score."""
        if score is None:
            return math.inf
        return -score if self.higher_is_better else score

    def axis_value(self, score: float) -> float:
        """Return a score in the unit of `score_axis`."""
        return 100 * score if self.higher_is_better else score

    def format_score(self, score: float | None) -> str:
        """Return a score as text, or an empty text without one."""
        return "" if score is None else format_score(self.metric, score)

    # ---- Trials.

    def ranked(self) -> list[TrialRecord]:
        """Return the trials, best first.

        Those that trained for the most epochs come first, then those with the better score. Trials without a score
        follow, and failed ones are last.
        """

        def key(trial: TrialRecord) -> tuple[bool, bool, int, float, int]:
            return bool(trial.failure), trial.score is None, -trial.epochs, self.sort_key(trial.score), trial.index

        return sorted(self.trials.values(), key=key)

    @property
    def best_result(self) -> dict[str, Any]:
        """Return the winner's entry in results.json, or an empty dictionary until the search has finished."""
        return dict(self.results.get("best", {}))

    @property
    def winner(self) -> TrialRecord | None:
        """Return the winner of a finished search, or the best trial so far, or None before the first score."""
        if self.best_result:
            return self.trials.get(self.best_result["index"])
        first = next(iter(self.ranked()), None)
        return first if first and first.score is not None else None

    def outcome(self, trial: TrialRecord) -> str:
        """Return the state of a trial in a few words: waiting, promoted, dropped, failed or trained in full."""
        if trial.failure:
            return f"failed: {trial.failure}"
        rungs = self.brackets[trial.bracket]
        finished = [rung for rung in rungs if trial.index in rung.scores]
        if not finished:
            return "waiting"
        if finished[-1] is not rungs[-1]:
            return "promoted" if trial.index in finished[-1].promoted else "dropped"
        if trial != self.winner:
            return "trained in full"
        return "best" if self.results else "best so far"

    def curve(self, trial: TrialRecord) -> list[CurvePoint]:
        """Return the metrics of a trial after each epoch, of its last segment, whose outputs are the class scores."""
        for folder in sorted(SearchFolder(self.folder).run_folder(trial.index).glob(f"{SEGMENTS}/*")):
            process = ProcessRecord.read(folder, folder.name, {})
            if process.task and process.task["stop"] is None:
                return process.curve()
        return []


def _rung_records(folder: SearchFolder, bracket: Bracket) -> list[RungRecord]:
    """Return the rungs of a bracket, with the results of those that have ended."""
    first_epochs = [0, *(rung.epochs for rung in bracket.rungs)]
    return [
        RungRecord(number, rung, first_epoch, folder.rung(bracket.number, number))
        for number, (rung, first_epoch) in enumerate(zip(bracket.rungs, first_epochs, strict=False))
    ]


def _trial_record(trial: Trial, rungs: Sequence[RungRecord]) -> TrialRecord:
    """Return the record of a trial from the results of its bracket's `rungs`."""
    scores, failure = [], ""
    for rung in rungs:
        score = rung.scores.get(trial.index)
        if score is not None:
            scores.append(RungScore(rung.epochs, score))
        elif trial.index in rung.scores:
            failure = rung.failures.get(trial.index, "no score")
    return TrialRecord(trial, scores, failure)
