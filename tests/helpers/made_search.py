"""A search's folder as Hyperband would leave it, without any training: scores come from a formula."""

import csv
import math
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from partrain.data import DataSettings
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
COMMAND = "python experiments/train.py train.lr=0.0031 network.width=256 train.epochs=27"
Values = dict[str, Any]
Plan = dict[str, Any]


def plan(last: int) -> list[Plan]:
    """Hyperband's brackets with eta = 3, from one epoch to `last`."""
    most = round(math.log(last, 3))
    return [
        {
            "number": number,
            "rungs": [
                {
                    "configurations": math.ceil((most + 1) / (number + 1) * 3**number) // 3**rung,
                    "epochs": last // 3 ** (number - rung),
                }
                for rung in range(number + 1)
            ],
        }
        for number in range(most, -1, -1)
    ]


def draw(generator: random.Random) -> Values:
    return {
        "train.lr": 10 ** generator.uniform(-4, -1),
        "network.width": generator.choice([64, 128, 256]),
        "train.optimizer": generator.choice(["adamw", "sgd"]),
        "network.dropout": generator.uniform(0, 0.5),
    }


def accuracy(values: Values, epochs: float) -> float:
    """What a network of these settings reaches."""
    best = -2.7 if values["train.optimizer"] == "adamw" else -1.4
    ceiling = 0.84 + 0.015 * math.log2(values["network.width"] / 64) - 0.3 * (values["network.dropout"] - 0.2) ** 2
    speed = math.exp(-((math.log10(values["train.lr"]) - best) ** 2))
    return ceiling * (1 - 0.9 * math.exp(-1.2 * speed * epochs**0.45))


def make_search(
    folder: Path,
    brackets: Sequence[Plan] = tuple(plan(27)),
    waves: int | None = None,
    metric: str = "validation_accuracy",
    failing: Collection[tuple[int, int]] = ((0, 3), (1, 31)),
) -> Path:
    """Write the folder of a search with these `brackets`, killed after so many `waves`; None: it is done.

    `failing`: rung and index of configurations that fail.
    """
    generator, drawn = random.Random(0), []
    for bracket in brackets:
        for _ in range(bracket["rungs"][0]["configurations"]):
            drawn.append({"index": len(drawn), "bracket": bracket["number"], "values": draw(generator)})
    search = {"method": "hyperband", "metric": metric, "space": SPACE, "eta": 3, "min_epochs": 1, "validation": 0.1}
    settings = RunSettings(seed=7, data=DataSettings(name="glyphs")).to_json()
    machine = {"cpu": "A processor", "cores": 2, "gpus": []}
    about = {"search": search, "settings": settings, "brackets": brackets, "machine": machine}
    checkpoint.write_json(folder / "search.json", about)
    checkpoint.write_json(folder / "configurations.json", drawn)
    made = _Search(folder, [each["values"] for each in drawn], metric, failing)
    alive = {
        plan["number"]: [each["index"] for each in drawn if each["bracket"] == plan["number"]] for plan in brackets
    }
    stops = sorted({rung["epochs"] for bracket in brackets for rung in bracket["rungs"]})
    for wave, stop in enumerate(stops[:waves]):
        for bracket in brackets:
            for number, rung in enumerate(bracket["rungs"]):
                if rung["epochs"] == stop:
                    alive[bracket["number"]] = made.rung(bracket, number, alive[bracket["number"]])
        checkpoint.write_json(folder / f"waves/{wave}.json", {"wave": wave, "seconds": 40.0 / 2**wave})
    if waves is None:
        made.results()
    return folder


class _Search:
    """What trains the made search, and keeps the scores of those that reach the last epoch in `finals`."""

    def __init__(self, folder: Path, values: list[Values], metric: str, failing: Collection[tuple[int, int]]) -> None:
        self.folder, self.values, self.metric, self.failing = folder, values, metric, failing
        self.better = 1 if metric == "validation_accuracy" else -1
        self.finals: dict[int, float] = {}
        self.epochs = 0

    def rung(self, bracket: Plan, number: int, members: list[int]) -> list[int]:
        """Write a rung over the configurations `members`; those that go on, best first."""
        epochs, following = bracket["rungs"][number]["epochs"], bracket["rungs"][number + 1 :]
        scores: dict[int, float | None] = {}
        for index in members:
            _write_metrics(self.folder / f"configurations/{index}", self.values[index], epochs)
            reached = accuracy(self.values[index], epochs)
            failed = (number, index) in self.failing
            scores[index] = None if failed else reached if self.better == 1 else -math.log(reached)
        scored = {index: score for index, score in scores.items() if score is not None}
        ranked = sorted(scored, key=lambda index: (-self.better * scored[index], index))
        promoted = ranked[: following[0]["configurations"]] if following else []
        if not following:
            self.finals |= scored
        self.epochs += len(scored) * (epochs - (bracket["rungs"][number - 1]["epochs"] if number else 0))
        result = {"bracket": bracket["number"], "rung": number, "epochs": epochs, "scores": scores, "seconds": 10.0}
        result |= {"promoted": promoted, "failed": {index: NAN for index in members if scores[index] is None}}
        checkpoint.write_json(self.folder / f"rungs/{bracket['number']}-{number}.json", result)
        return promoted

    def results(self) -> None:
        """Write results.json."""
        index = max(self.finals, key=lambda each: self.better * self.finals[each])
        best = {"index": index, "values": self.values[index], "score": self.finals[index], "epochs": 27}
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
    """Two segments' metrics.csv; the second ends in the classes."""
    for segment, stop in enumerate(("relu2", None)):
        place = folder / f"segments/{segment}"
        checkpoint.write_json(place / "task.json", {"index": segment, "stop": stop, "device": "cpu"})
        with (place / "metrics.csv").open("w") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for epoch in range(1, epochs + 1):
                reached = accuracy(values, epoch)
                row = {"epoch": epoch, "steps": 300, "loss": -math.log(reached), "decode_accuracy": reached}
                writer.writerow(row | {"learning_rate": values["train.lr"], "seconds": 0.5})


def rung(folder: Path, bracket: int, number: int) -> dict[str, Any]:
    """What is in the file of a rung."""
    found = checkpoint.read_json(folder / f"rungs/{bracket}-{number}.json")
    return found | {"scores": {int(index): score for index, score in found["scores"].items()}}


def of_bracket(figure: dict[str, Any], column: int, name: str) -> dict[str, Any]:
    """The trace called `name` in a column of the rungs' figure."""
    axis = f"x{column + 1}" if column else "x"
    (found,) = (each for each in figure["data"] if each.get("xaxis") == axis and each.get("name") == name)
    return dict(found)
