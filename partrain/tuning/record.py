"""What a search's folder holds, whether the search is done, under way or was killed: what is not there yet is empty."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partrain.report.formatting import dataset_name
from partrain.report.record import CurvePoint, ProcessRecord
from partrain.storage.run_folder import SEGMENTS
from partrain.tuning.brackets import Bracket, Rung
from partrain.tuning.configurations import Configuration
from partrain.tuning.folder import RungResult, SearchFolder
from partrain.tuning.settings import shown

_METHODS = {
    "random": "Random search",
    "grid": "Grid search",
    "successive_halving": "Successive halving",
    "hyperband": "Hyperband",
}


@dataclass(frozen=True)
class RungState:
    """A rung of a bracket and what came of it.

    Args:
        number: Counts the bracket's rungs from 0.
        plan: How many configurations it trains, and until which epoch.
        before: The epochs that they have behind them when it begins.
        result: None until all of them are trained or have failed.
    """

    number: int
    plan: Rung
    before: int
    result: RungResult | None

    @property
    def epochs(self) -> int:
        """The epoch until which it trains."""
        return self.plan.epochs

    @property
    def scores(self) -> dict[int, float | None]:
        """The score of each configuration, None if it failed; empty until the rung is done."""
        return self.result.scores if self.result else {}

    @property
    def failed(self) -> dict[int, str]:
        """Why those configurations failed that did."""
        return self.result.failed if self.result else {}

    @property
    def promoted(self) -> list[int]:
        """The configurations that go on to the next rung, best first."""
        return self.result.promoted if self.result else []

    @property
    def done(self) -> bool:
        return bool(self.scores)

    @property
    def size(self) -> int:
        """How many configurations it trains: fewer than planned where too few were left."""
        return len(self.scores) or self.plan.configurations

    @property
    def epochs_trained(self) -> int:
        """The epochs that its configurations together train in it; those that fail come through none."""
        trained = sum(score is not None for score in self.scores.values()) if self.done else self.plan.configurations
        return trained * (self.epochs - self.before)


@dataclass(frozen=True)
class Standing:
    """How far a configuration has come: epochs and scores of the rungs it has come through, and why it failed, if it did."""

    configuration: Configuration
    trail: list[tuple[int, float]]
    failure: str

    @property
    def index(self) -> int:
        return self.configuration.index

    @property
    def bracket(self) -> int:
        return self.configuration.bracket

    @property
    def values(self) -> dict[str, Any]:
        return self.configuration.values

    @property
    def epochs(self) -> int:
        return self.trail[-1][0] if self.trail else 0

    @property
    def score(self) -> float | None:
        """The latest; None where there is none yet, or it failed."""
        return self.trail[-1][1] if self.trail and not self.failure else None


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """A search, as its folder tells it.

    Args:
        brackets: The rungs of each bracket, by its number.
        standings: How far each configuration is, by its index.
        waves: The seconds of each.
        results: Empty until the search is done.
    """

    folder: Path
    search: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any]
    brackets: dict[int, list[RungState]]
    standings: dict[int, Standing]
    waves: list[float]
    results: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "SearchRecord":
        """Read what is there of the search in folder `path`."""
        folder = SearchFolder(path, skip_damaged=True)
        manifest = folder.manifest()
        brackets = {bracket.number: _rungs(folder, bracket) for bracket in manifest.brackets}
        return cls(
            folder=path,
            search=manifest.search,
            settings=manifest.settings,
            machine=manifest.machine,
            brackets=brackets,
            standings={each.index: _standing(each, brackets.get(each.bracket, [])) for each in folder.configurations()},
            waves=folder.wave_seconds(),
            results=folder.results(),
        )

    @property
    def method(self) -> str:
        name = str(self.results.get("method") or self.search.get("method") or "search")
        return _METHODS.get(name, name.replace("_", " ").capitalize())

    @property
    def metric(self) -> str:
        return str(self.search.get("metric") or self.results.get("metric") or "validation_accuracy")

    @property
    def higher_is_better(self) -> bool:
        return not self.metric.endswith("loss")

    @property
    def metric_label(self) -> str:
        return self.metric.replace("_", " ")

    @property
    def score_axis(self) -> str:
        """What axes of scores are called."""
        return self.metric_label + (", %" if self.higher_is_better else "")

    def order(self, score: float | None) -> float:
        """The lower, the better the score."""
        if score is None:
            return math.inf
        return -score if self.higher_is_better else score

    def scaled(self, score: float) -> float:
        """On axes of scores."""
        return 100 * score if self.higher_is_better else score

    def shown(self, score: float | None) -> str:
        """In a text."""
        return "" if score is None else shown(self.metric, score)

    @property
    def provenance(self) -> dict[str, Any]:
        """Of the data, once the search is done."""
        return dict(self.results.get("data", {}))

    @property
    def best(self) -> dict[str, Any]:
        """What the results say of the winner."""
        return dict(self.results.get("best", {}))

    @property
    def data(self) -> str:
        """The data set's name and split."""
        data = self.provenance or self.settings.get("data", {})
        return dataset_name(data)

    @property
    def forms(self) -> dict[str, str]:
        """How each searched setting is distributed, e.g. loguniform(1e-4,1e-1), by its name."""
        pairs = (str(entry).partition("=") for entry in self.search.get("space", []))
        return {name.strip().lstrip("+"): form.strip() for name, _, form in pairs}

    @property
    def packed(self) -> bool | None:
        """Whether models were trained together; None: not known before the end."""
        return self.results.get("packed")

    @property
    def seconds(self) -> float:
        return float(self.results.get("seconds") or sum(self.waves))

    @property
    def epochs(self) -> int:
        """Trained so far, over all configurations."""
        found = self.results.get("epochs_trained")
        return found or sum(rung.epochs_trained for rung in self.rungs() if rung.done)

    @property
    def stops(self) -> list[int]:
        """The epochs until which waves train, wave by wave: where some rung ends."""
        return sorted({rung.epochs for rung in self.rungs()})

    @property
    def last_epoch(self) -> int:
        """Until which the last rungs train."""
        return max((rung.epochs for rung in self.rungs()), default=0)

    def rungs(self) -> Iterator[RungState]:
        """Every bracket's."""
        for rungs in self.brackets.values():
            yield from rungs

    def ranked(self) -> list[Standing]:
        """Best first: those trained for the most epochs, then by score; those not trained yet, then the failed ones last."""

        def key(each: Standing) -> tuple[bool, bool, int, float, int]:
            return bool(each.failure), each.score is None, -each.epochs, self.order(each.score), each.index

        return sorted(self.standings.values(), key=key)

    @property
    def winner(self) -> Standing | None:
        """Of the search, or so far."""
        if self.best:
            return self.standings.get(self.best["index"])
        first = next(iter(self.ranked()), None)
        return first if first and first.score is not None else None

    def outcome(self, standing: Standing) -> str:
        """What became of a configuration, in a few words."""
        if standing.failure:
            return f"failed: {standing.failure}"
        rungs = self.brackets[standing.bracket]
        reached = [rung for rung in rungs if standing.index in rung.scores]
        if not reached:
            return "waiting"
        if reached[-1] is rungs[-1]:
            best = "best" if self.results else "best so far"
            return best if standing == self.winner else "trained in full"
        return "goes on" if standing.index in reached[-1].promoted else "dropped"

    def curve(self, standing: Standing) -> list[CurvePoint]:
        """The epochs of the segment that ends in the classes."""
        for folder in sorted(SearchFolder(self.folder).run_folder(standing.index).glob(f"{SEGMENTS}/*")):
            process = ProcessRecord.read(folder, folder.name, {})
            if process.task and process.task["stop"] is None:
                return process.curve()
        return []


def _rungs(folder: SearchFolder, bracket: Bracket) -> list[RungState]:
    """The bracket's rungs, with what came of those that are done."""
    befores = [0, *(rung.epochs for rung in bracket.rungs)]
    return [
        RungState(number, rung, before, folder.rung(bracket.number, number))
        for number, (rung, before) in enumerate(zip(bracket.rungs, befores, strict=False))
    ]


def _standing(configuration: Configuration, rungs: Sequence[RungState]) -> Standing:
    trail, failure = [], ""
    for rung in rungs:
        score = rung.scores.get(configuration.index)
        if score is not None:
            trail.append((rung.epochs, score))
        elif configuration.index in rung.scores:
            failure = rung.failed.get(configuration.index, "no score")
    return Standing(configuration, trail, failure)
