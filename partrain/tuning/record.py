"""What a search's folder holds, whether the search is done, under way or was killed: what is not there yet is empty."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partrain.report.formatting import data_name, share
from partrain.report.record import Point, Process, read_found

_METHODS = {
    "random": "Random search",
    "grid": "Grid search",
    "successive_halving": "Successive halving",
    "hyperband": "Hyperband",
}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Step `number` of a bracket: `planned` configurations are trained until epoch `epochs`.

    The rest is empty until all of them are: their scores (None: it failed), why those that failed did, and which of them
    go on to the next rung.
    """

    number: int
    planned: int
    epochs: int
    scores: dict[int, float | None]
    failed: dict[int, str]
    promoted: frozenset[int]

    @property
    def done(self) -> bool:
        return bool(self.scores)

    @property
    def size(self) -> int:
        """How many configurations it trains: fewer than planned where too few were left."""
        return len(self.scores) or self.planned


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A successive halving; `number` is how many times it halves."""

    number: int
    rungs: list[Rung]

    def steps(self) -> Iterator[tuple[Rung, int]]:
        """Every rung, and the epochs that its configurations together train in it; those that fail come through none."""
        before = 0
        for rung in self.rungs:
            trained = sum(score is not None for score in rung.scores.values()) if rung.done else rung.planned
            yield rung, trained * (rung.epochs - before)
            before = rung.epochs


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Settings by name, the epochs and scores of the rungs they have come through, and why they failed, if they did."""

    index: int
    bracket: int
    values: dict[str, Any]
    trail: list[tuple[int, float]]
    failure: str

    @property
    def epochs(self) -> int:
        return self.trail[-1][0] if self.trail else 0

    @property
    def score(self) -> float | None:
        """The latest; None where there is none yet, or it failed."""
        return self.trail[-1][1] if self.trail and not self.failure else None


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """A search, as its folder tells it. `waves`: the seconds of each. `results` is empty until it is done."""

    folder: Path
    search: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any]
    brackets: list[Bracket]
    configurations: dict[int, Configuration]
    waves: list[float]
    results: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "SearchRecord":
        about = read_found(folder / "search.json")
        brackets = [_bracket(folder, each) for each in about.get("brackets", [])]
        waves = (read_found(path) for path in sorted(folder.glob("waves/*.json"), key=lambda path: int(path.stem)))
        drawn = read_found(folder / "configurations.json") or []
        return cls(
            folder=folder,
            search=about.get("search", {}),
            settings=about.get("settings", {}),
            machine=about.get("machine", {}),
            brackets=brackets,
            configurations={each["index"]: _configuration(each, brackets) for each in drawn},
            waves=[wave["seconds"] for wave in waves if wave],
            results=read_found(folder / "results.json"),
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
        if score is None:
            return ""
        return share(score) if self.higher_is_better else f"{score:.4f}"

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
        return data_name(data)

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
        return found or sum(epochs for rung, epochs in self.steps() if rung.done)

    @property
    def stops(self) -> list[int]:
        """The epochs until which waves train, wave by wave: where some rung ends."""
        return sorted({rung.epochs for bracket in self.brackets for rung in bracket.rungs})

    @property
    def last_epoch(self) -> int:
        """Until which the last rungs train."""
        return max((rung.epochs for bracket in self.brackets for rung in bracket.rungs), default=0)

    def steps(self) -> Iterator[tuple[Rung, int]]:
        """Every bracket's."""
        for bracket in self.brackets:
            yield from bracket.steps()

    def ranked(self) -> list[Configuration]:
        """Best first: those trained for the most epochs, then by score; those not trained yet, then the failed ones last."""

        def key(each: Configuration) -> tuple[bool, bool, int, float, int]:
            return bool(each.failure), each.score is None, -each.epochs, self.order(each.score), each.index

        return sorted(self.configurations.values(), key=key)

    @property
    def winner(self) -> Configuration | None:
        """Of the search, or so far."""
        if self.best:
            return self.configurations.get(self.best["index"])
        first = next(iter(self.ranked()), None)
        return first if first and first.score is not None else None

    def outcome(self, configuration: Configuration) -> str:
        """What became of it, in a few words."""
        if configuration.failure:
            return f"failed: {configuration.failure}"
        rungs = next(bracket.rungs for bracket in self.brackets if bracket.number == configuration.bracket)
        reached = [rung for rung in rungs if configuration.index in rung.scores]
        if not reached:
            return "waiting"
        if reached[-1] is rungs[-1]:
            best = "best" if self.results else "best so far"
            return best if configuration == self.winner else "trained in full"
        return "goes on" if configuration.index in reached[-1].promoted else "dropped"

    def curve(self, configuration: Configuration) -> list[Point]:
        """The epochs of the segment that ends in the classes."""
        for folder in sorted(self.folder.glob(f"configurations/{configuration.index}/segments/*")):
            process = Process.read(folder, folder.name, {})
            if process.task and process.task["stop"] is None:
                return process.points()
        return []


def _bracket(folder: Path, planned: dict[str, Any]) -> Bracket:
    rungs = []
    for number, plan in enumerate(planned["rungs"]):
        found = read_found(folder / "rungs" / f"{planned['number']}-{number}.json")
        rungs.append(
            Rung(
                number=number,
                planned=plan["configurations"],
                epochs=plan["epochs"],
                scores={int(index): score for index, score in found.get("scores", {}).items()},
                failed={int(index): reason for index, reason in found.get("failed", {}).items()},
                promoted=frozenset(found.get("promoted", [])),
            )
        )
    return Bracket(number=planned["number"], rungs=rungs)


def _configuration(drawn: dict[str, Any], brackets: list[Bracket]) -> Configuration:
    index, trail, failure = drawn["index"], [], ""
    for rung in next((bracket.rungs for bracket in brackets if bracket.number == drawn["bracket"]), []):
        score = rung.scores.get(index)
        if score is not None:
            trail.append((rung.epochs, score))
        elif index in rung.scores:
            failure = rung.failed.get(index, "no score")
    return Configuration(index=index, bracket=drawn["bracket"], values=drawn["values"], trail=trail, failure=failure)
