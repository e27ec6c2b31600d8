"""Tests that the figures of a search's page show its scores, settings and epochs."""

import csv
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_search import NAN, accuracy, of_bracket, plan, rung
from pages import read_figures

from partrain.storage import checkpoint
from partrain.tuning.axes import log_ticks, setting_axis
from partrain.tuning.record import SearchRecord


def test_rungs_have_a_dot_for_every_score(search: Path, searched: Path) -> None:
    figure = read_figures(searched)["Scores by rung"]
    for column, bracket in enumerate(plan(27)):
        name, kinds = bracket["number"], {"kept": [], "dropped": [], "failed": []}
        for number in range(len(bracket["rungs"])):
            result = rung(search, name, number)
            for index, score in result["scores"].items():
                last = number == len(bracket["rungs"]) - 1
                kind = "kept" if last or index in result["promoted"] else "dropped"
                kind = "failed" if score is None else kind
                kinds[kind].append(f"configuration {index}</b>, epoch {result['epochs']}")
        for kind, dots in kinds.items():
            texts = of_bracket(figure, column, kind)["text"]
            assert sorted(re.match(r"<b>(.*?):", text)[1] for text in texts) == sorted(dots)
        sizes = " → ".join(str(planned["configurations"]) for planned in bracket["rungs"])
        assert figure["layout"]["annotations"][column]["text"] == f"<b>bracket {name}</b><br>{sizes}"
        axis = figure["layout"][f"xaxis{column + 1}" if column else "xaxis"]
        assert axis["tickvals"] == [planned["epochs"] for planned in bracket["rungs"]]
    assert NAN in of_bracket(figure, 0, "failed")["text"][0]


def test_dots_of_a_rung_stand_side_by_side_best_first(search: Path, searched: Path) -> None:
    figure = read_figures(searched)["Scores by rung"]
    kept, dropped, failed = (of_bracket(figure, 0, name) for name in ("kept", "dropped", "failed"))
    dots = [dot for trace in (kept, dropped, failed) for dot in zip(trace["x"], trace["y"], strict=True)]
    first = sorted(dot for dot in dots if dot[0] < math.sqrt(3))
    assert len(first) == 27
    scores = sorted((score for score in rung(search, 3, 0)["scores"].values() if score is not None), reverse=True)
    assert [y for _, y in first[:-1]] == pytest.approx([-math.log10(100 * (1 - score)) for score in scores])
    assert first[-1][1] < first[-2][1]
    assert min(b[0] / a[0] for a, b in pairwise(first)) > 1.02


def test_columns_do_not_overlap_and_have_one_scale(searched: Path) -> None:
    layout = read_figures(searched)["Scores by rung"]["layout"]
    axes = [layout[name] for name in ("xaxis", "xaxis2", "xaxis3", "xaxis4")]
    ends = [end for axis in axes for end in axis["domain"]]
    assert ends == sorted(ends)
    assert (ends[0], ends[-1]) == pytest.approx((0, 1))
    scales = [(a["domain"][1] - a["domain"][0]) / (a["range"][1] - a["range"][0]) for a in axes]
    assert scales == pytest.approx([scales[0]] * 4)


def test_the_winner_is_drawn_through_its_rungs(search: Path, searched: Path) -> None:
    best = checkpoint.read_json(search / "results.json")["best"]
    figure = read_figures(searched)["Scores by rung"]
    (line,) = (trace for trace in figure["data"] if trace["mode"] == "lines+markers" and "text" in trace and trace["x"])
    epochs = [int(re.search(r"epoch (\d+)", text)[1]) for text in line["text"]]
    assert epochs == [1, 3, 9, 27]
    assert line["y"] == pytest.approx([-math.log10(100 * (1 - accuracy(best["values"], epoch))) for epoch in epochs])
    assert line["marker"]["symbol"] == ["circle", "circle", "circle", "star"]


def test_parallel_coordinates_have_the_settings_own_units(search: Path, searched: Path) -> None:
    (drawn,) = read_figures(searched)["Settings and scores"]["data"]
    labels = [axis["label"].replace("<br>", "") for axis in drawn["dimensions"]]
    assert labels == [
        *("train.lr", "network.width", "train.optimizer", "network.dropout", "epochs", "validationaccuracy, %")
    ]
    rate, width, optimizer, dropout, epochs, score = drawn["dimensions"]
    trials = checkpoint.read_json(search / "configurations.json")
    values = [trial["values"] for trial in trials if trial["index"] not in (3, 31)]
    assert sorted(rate["values"]) == pytest.approx(
        sorted(math.log10(drawn_values["train.lr"]) for drawn_values in values)
    )
    assert [10**tick for tick in rate["tickvals"]] == pytest.approx([float(text) for text in rate["ticktext"]])
    assert width["tickvals"] == [64, 128, 256]
    assert optimizer["ticktext"] == ["adamw", "sgd"]
    assert sum(optimizer["values"]) == sum(drawn_values["train.optimizer"] == "sgd" for drawn_values in values)
    assert sorted(dropout["values"]) == sorted(drawn_values["network.dropout"] for drawn_values in values)
    assert epochs["ticktext"] == ["1", "3", "9", "27"]
    assert drawn["line"]["color"] == score["values"]
    assert [100 - 10**-tick for tick in score["tickvals"]] == pytest.approx([float(text) for text in score["ticktext"]])


@pytest.mark.parametrize(
    ("distribution", "values", "axis"),
    [
        ("loguniform(1,100)", [1, 10, 100], {"values": [0, 1, 2]}),
        ("int(1,3)", [1, 3, 2], {"values": [1, 3, 2], "tickvals": [1, 2, 3]}),
        ("uniform(0,1)", [0.5, 0.25], {"values": [0.5, 0.25]}),
        ("choice(0.5,0.25)", [0.5, 0.25], {"values": [0.5, 0.25], "tickvals": [0.25, 0.5]}),
        ("choice(true,false)", [True, False], {"values": [1, 0], "ticktext": ["false", "true"], "tickvals": [0, 1]}),
        ("choice([1],[1,2])", [[1], [1, 2]], {"values": [1, 0], "ticktext": ["[1,2]", "[1]"], "tickvals": [0, 1]}),
        ("choice(null,<b>)", [None, "<b>"], {"values": [1, 0], "ticktext": ["&lt;b&gt;", "null"], "tickvals": [0, 1]}),
    ],
)
def test_axes_are_as_settings_are_distributed(distribution: str, values: list[Any], axis: dict[str, Any]) -> None:
    drawn = setting_axis("train.it", distribution, values)
    assert drawn.pop("label") == "train.<br>it"
    if distribution.startswith("log"):
        assert drawn.pop("ticktext")[0] == "1"
        assert drawn.pop("tickvals")[-1] == 2
    assert drawn == axis


def test_ticks_are_round_and_apart() -> None:
    assert log_ticks(1e-4, 1e-1) == [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1]
    assert log_ticks(12, 75) == [15, 20, 25, 30, 40, 50, 70]
    assert log_ticks(12.1, 12.4) == [12.1, 12.4]
    assert log_ticks(3, 3) == [3]


def test_the_best_curves_are_those_of_the_metrics(search: Path, searched: Path) -> None:
    best = SearchRecord.read(search).ranked()[:5]
    lines = read_figures(searched)["Decode accuracy in training"]["data"]
    assert [re.sub("<.*?>", "", line["name"]) for line in lines] == [f"configuration {trial.index}" for trial in best]
    assert lines[0]["name"].startswith("<b>")
    for trial, line in zip(best, lines, strict=True):
        with (search / f"configurations/{trial.index}/segments/1/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert line["x"] == list(range(1, 28))
        assert line["y"] == [100 * float(row["decode_accuracy"]) for row in rows]


def test_the_best_so_far_and_the_epochs(search: Path, searched: Path) -> None:
    drawn = read_figures(searched)
    (line,) = drawn["Best score so far"]["data"]
    best_scores = []
    for round_number in range(4):  # In which bracket b, for b >= 3 - round_number, ends its rung b - 3 + round_number.
        brackets = range(3 - round_number, 4)
        rungs = [rung(search, bracket, bracket - 3 + round_number) for bracket in brackets]
        best_scores.append(max(score or 0 for ended in rungs for score in ended["scores"].values()))
    assert line["x"] == [40, 60, 70, 75]
    assert line["y"] == [100 * max(best_scores[: round_number + 1]) for round_number in range(4)]
    bars = drawn["Epochs by bracket and rung"]["data"]
    assert [bar["x"] for bar in bars] == [[26, 36, 54, 108], [18, 18, 36], [18, 18], [18]]
    assert sum(sum(bar["x"]) for bar in bars) == 350  # One failed in a rung of 1 epoch, one in a rung of 6.
    assert "would take 1,323 epochs; the search has trained 350." in searched.read_text()
