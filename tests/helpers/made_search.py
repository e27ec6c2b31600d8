"""A search's folder as Hyperband would leave it, made without any training: scores come from a formula."""

import csv
import math
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from partrain.data.settings import Glyphs
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.training.progress import COLUMNS

SPACE = [
    "train.lr=loguniform(1e-4,1e-1)",
    "network.width=choice(64,128,256)",
    "train.optimizer=choice(adamw,sgd)",
    "network.dropout=uniform(0,0.5)",
]
NAN = "segment 1: the loss is nan at epoch 1; lower train.lr"
COMMAND = "partrain train train.lr=0.0031 network.width=256 train.epochs=27"
Values = dict[str, Any]
Plan = dict[str, Any]


def plan(max_epochs: int) -> list[Plan]:
    """Return Hyperband's brackets with eta = 3 and rungs from one epoch to `max_epochs`, as search.json holds them."""
    max_halvings = round(math.log(max_epochs, 3))
    return [_bracket_plan(halvings, max_halvings, max_epochs) for halvings in range(max_halvings, -1, -1)]


def _bracket_plan(halvings: int, max_halvings: int, max_epochs: int) -> Plan:
    num_trials = math.ceil((max_halvings + 1) / (halvings + 1) * 3**halvings)
    rungs = [
        {"configurations": num_trials // 3**rung, "epochs": max_epochs // 3 ** (halvings - rung)}
        for rung in range(halvings + 1)
    ]
    return {"number": halvings, "rungs": rungs}


def draw(generator: random.Random) -> Values:
    """Return values for the settings of `SPACE`."""
    return {
        "train.lr": 10 ** generator.uniform(-4, -1),
        "network.width": generator.choice([64, 128, 256]),
        "train.optimizer": generator.choice(["adamw", "sgd"]),
        "network.dropout": generator.uniform(0, 0.5),
    }


def accuracy(values: Values, epochs: float) -> float:
    """Return the accuracy that a network with these settings has after `epochs` epochs."""
    best = -2.7 if values["train.optimizer"] == "adamw" else -1.4
    ceiling = 0.84 + 0.015 * math.log2(values["network.width"] / 64) - 0.3 * (values["network.dropout"] - 0.2) ** 2
    speed = math.exp(-((math.log10(values["train.lr"]) - best) ** 2))
    return ceiling * (1 - 0.9 * math.exp(-1.2 * speed * epochs**0.45))


def make_search(
    folder: Path,
    brackets: Sequence[Plan] = tuple(plan(27)),
    rounds: int | None = None,
    metric: str = "validation_accuracy",
    failing: Collection[tuple[int, int]] = ((0, 3), (1, 31)),
) -> Path:
    """Write the files of a search into `folder`, and return it.

    Args:
        folder: The folder of the search.
        brackets: The search's brackets, as search.json holds them.
        rounds: After how many rounds the search was killed, or None if it has finished.
        metric: The metric of the scores.
        failing: The rung and the index of each trial that fails.
    """
    trials = _draw_trials(brackets)
    _write_manifest(folder, brackets, metric)
    checkpoint.write_json(folder / "configurations.json", trials)
    made = _MadeSearch(folder, [trial["values"] for trial in trials], metric, failing)
    remaining = {
        bracket["number"]: [trial["index"] for trial in trials if trial["bracket"] == bracket["number"]]
        for bracket in brackets
    }
    stops = sorted({rung["epochs"] for bracket in brackets for rung in bracket["rungs"]})
    for round_number, stop in enumerate(stops[:rounds]):
        for bracket in brackets:
            for number, rung_plan in enumerate(bracket["rungs"]):
                if rung_plan["epochs"] == stop:
                    members = remaining[bracket["number"]]
                    remaining[bracket["number"]] = made.write_rung(bracket, number, members)
        seconds = 40.0 / 2**round_number
        checkpoint.write_json(folder / f"waves/{round_number}.json", {"wave": round_number, "seconds": seconds})
    if rounds is None:
        made.write_results()
    return folder


def _draw_trials(brackets: Sequence[Plan]) -> list[dict[str, Any]]:
    """Return the contents of configurations.json."""
    generator = random.Random(0)
    trials: list[dict[str, Any]] = []
    for bracket in brackets:
        for _ in range(bracket["rungs"][0]["configurations"]):
            trials.append({"index": len(trials), "bracket": bracket["number"], "values": draw(generator)})
    return trials


def _write_manifest(folder: Path, brackets: Sequence[Plan], metric: str) -> None:
    """Write search.json."""
    search = {"method": "hyperband", "metric": metric, "space": SPACE, "eta": 3, "min_epochs": 1}
    settings = RunSettings(seed=7, data=Glyphs(validation=0.1)).to_dict()
    machine = {"cpu": "A processor", "cores": 2, "gpus": []}
    manifest = {"search": search, "settings": settings, "brackets": brackets, "machine": machine}
    checkpoint.write_json(folder / "search.json", manifest)


class _MadeSearch:
    """A search whose rungs are written one by one."""

    def __init__(self, folder: Path, values: list[Values], metric: str, failing: Collection[tuple[int, int]]) -> None:
        self.folder, self.values, self.metric, self.failing = folder, values, metric, failing
        self.sign = 1 if metric == "validation_accuracy" else -1
        self.final_scores: dict[int, float] = {}
        """The scores of the trials that reached the last epoch, by index."""
        self.epochs = 0
        """Epochs trained so far, over all trials."""

    def write_rung(self, bracket: Plan, number: int, members: list[int]) -> list[int]:
        """Write a rung over the trials `members`, and return the promoted ones, best first."""
        epochs, following = bracket["rungs"][number]["epochs"], bracket["rungs"][number + 1 :]
        for index in members:
            _write_metrics(self.folder / f"configurations/{index}", self.values[index], epochs)
        scores = {index: self.score(number, index, epochs) for index in members}
        finite = {index: score for index, score in scores.items() if score is not None}
        ranked = sorted(finite, key=lambda index: (-self.sign * finite[index], index))
        promoted = ranked[: following[0]["configurations"]] if following else []
        if not following:
            self.final_scores |= finite
        self.epochs += len(finite) * (epochs - (bracket["rungs"][number - 1]["epochs"] if number else 0))
        result = {"bracket": bracket["number"], "rung": number, "epochs": epochs, "scores": scores, "seconds": 10.0}
        result |= {"promoted": promoted, "failed": {index: NAN for index in members if scores[index] is None}}
        checkpoint.write_json(self.folder / f"rungs/{bracket['number']}-{number}.json", result)
        return promoted

    def score(self, rung_number: int, index: int, epochs: int) -> float | None:
        """Return the score of a trial, or None if it fails."""
        if (rung_number, index) in self.failing:
            return None
        reached = accuracy(self.values[index], epochs)
        return reached if self.sign == 1 else -math.log(reached)

    def write_results(self) -> None:
        """Write results.json."""
        index = max(self.final_scores, key=lambda trial: self.sign * self.final_scores[trial])
        best = {"index": index, "values": self.values[index], "score": self.final_scores[index], "epochs": 27}
        results = {
            "method": "hyperband",
            "metric": self.metric,
            "best": best | {"test_accuracy": 0.8612, "command": COMMAND},
            "configurations": len(self.values),
            "epochs_trained": self.epochs,
            "seconds": 75.0,
            "packed": True,
            "data": {
                "name": "glyphs",
                "split": "letters",
                "train_images": 37600,
                "test_images": 7520,
                "verified": None,
            },
            "versions": {"partrain": "0.1.0", "torch": "2.11"},
        }
        checkpoint.write_json(self.folder / "results.json", results)


def _write_metrics(folder: Path, values: Values, epochs: int) -> None:
    """Write the metrics.csv of two segments, the second of which ends in the classes."""
    for segment, stop in enumerate(("relu2", None)):
        segment_folder = folder / f"segments/{segment}"
        checkpoint.write_json(segment_folder / "task.json", {"index": segment, "stop": stop, "device": "cpu"})
        with (segment_folder / "metrics.csv").open("w") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for epoch in range(1, epochs + 1):
                reached = accuracy(values, epoch)
                row = {"epoch": epoch, "steps": 300, "loss": -math.log(reached), "decode_accuracy": reached}
                writer.writerow(row | {"learning_rate": values["train.lr"], "seconds": 0.5})


def rung(folder: Path, bracket: int, number: int) -> dict[str, Any]:
    """Return the contents of a rung's file, with its scores by the trials' indices as numbers."""
    values = checkpoint.read_json(folder / f"rungs/{bracket}-{number}.json")
    return values | {"scores": {int(index): score for index, score in values["scores"].items()}}


def of_bracket(figure: dict[str, Any], column: int, name: str) -> dict[str, Any]:
    """Return the trace called `name` in one column of the figure of rungs."""
    axis = f"x{column + 1}" if column else "x"
    (trace,) = (trace for trace in figure["data"] if trace.get("xaxis") == axis and trace.get("name") == name)
    return dict(trace)
