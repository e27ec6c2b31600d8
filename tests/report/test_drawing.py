"""Tests of the network's drawing: each layer is in its segment, boundaries are labelled, and nothing overlaps."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from browser import open_page
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.networks import MLP, NetworkSettings, TorchvisionModel
from partrain.partition.plan import PartitionSettings
from partrain.report.record import RunRecord
from partrain.report.run_page import write_page

Box = tuple[float, float, float, float]

# Finds the left, top, right and bottom of all parts of a drawing `WIDTH` pixels wide, and the parts that overflow.
LAYOUT = """
  const drawing = document.querySelector(".network");
  drawing.style.width = "WIDTHpx";
  const boxes = (selector, within = drawing) => [...within.querySelectorAll(selector)].map((element) => {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [left, top, right, bottom];
  });
  answers.drawing = boxes(".network", document)[0];
  answers.cards = boxes(".segment");
  answers.arrows = boxes(".boundary");
  answers.layers = [...drawing.querySelectorAll(".segment")].map((card) => boxes("ul li", card));
  answers.texts = [...drawing.querySelectorAll(".segment, .boundary")].map((part) => boxes("strong, span", part));
  answers.overflowing = [drawing, ...drawing.querySelectorAll("li, p, ul, div")]
    .filter((element) => element.scrollWidth > element.clientWidth && element.clientWidth > 0)
    .map((element) => element.outerHTML);
"""


def dry_run(folder: Path, dataset: Dataset, **changed: Any) -> RunRecord:
    """Return the record of a run that ended with its plan."""
    partrain.run(small_settings(**changed), folder, dataset=dataset, show_progress=False)
    return RunRecord.read(folder)


def read_drawing(page: Path) -> ElementTree.Element:
    """Return the drawing's outer list, parsed."""
    text = page.read_text()
    start = text.index('<ol class="network"')
    return ElementTree.fromstring(text[start : text.index("</ol>", start) + len("</ol>")])


def text_of(element: ElementTree.Element) -> str:
    """Return the element's text with single spaces."""
    return " ".join("".join(element.itertext()).split())


def is_inside(inner: Box, outer: Box) -> bool:
    """Return whether one box is within another."""
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("width", [1096, 340])
@pytest.mark.parametrize(
    ("network", "segments", "names"),
    [
        (MLP(depth=6, width=16), 2, [f"linear{n}" for n in range(6)]),
        (MLP(depth=6, width=16), 6, [f"linear{n}" for n in range(6)]),
        (MLP(depth=50, width=16), 7, [f"linear{n}" for n in range(50)]),
        (TorchvisionModel(name="resnet18"), 3, None),
    ],
)
def test_layers_are_in_their_segments(
    network: NetworkSettings, segments: int, names: list[str] | None, width: int, small: Dataset, tmp_path: Path
) -> None:
    record = dry_run(tmp_path, small, network=network, partition=PartitionSettings(segments=segments, dry_run=True))
    page = write_page(record, None)
    drawing = read_drawing(page)
    assert drawing.get("aria-label") == f"{record.network} in {segments} segments, from the data to the classes"
    groups = drawing.findall("li/div")
    for index, (group, segment) in enumerate(zip(groups, record.segments, strict=True)):
        assert group.get("class") == f"segment c{index}"
        assert group.findtext("p/strong") == f"segment {index}"
        layers = group.findall("ul/li")
        assert [layer.text for layer in layers] == [layer.get("title") for layer in layers] == segment.layers
    if names is not None:
        assert [name for segment in record.segments for name in segment.layers] == names

    laid_out, console = open_page(page, LAYOUT.replace("WIDTH", str(width)), tmp_path / "browser")
    assert console == []
    outer = laid_out["drawing"]
    assert outer[2] - outer[0] == width
    cards, arrows = laid_out["cards"], laid_out["arrows"]
    assert (len(cards), len(arrows)) == (segments, segments + 1)
    assert all(is_inside(box, outer) for box in cards + arrows)
    assert not any(overlap(*pair) for pair in itertools.combinations(cards + arrows, 2))
    for card, layers in zip(cards, laid_out["layers"], strict=True):
        assert all(is_inside(layer, card) for layer in layers)
        assert not any(overlap(*pair) for pair in itertools.combinations(layers, 2))
    for texts in laid_out["texts"]:
        assert all(is_inside(text, outer) for text in texts)
        assert not any(overlap(*pair) for pair in itertools.combinations(texts, 2))
    assert laid_out["overflowing"] == []
    if width == 340:
        assert len({card[0] for card in cards}) == 1  # one below the other


def test_many_layers_are_grouped_by_module(small: Dataset, tmp_path: Path) -> None:
    record = dry_run(tmp_path, small, partition=PartitionSettings(segments=1, dry_run=True))
    assert record.plan is not None
    names = [f"block{block}.layer{layer}" for block in range(6) for layer in range(9)]
    plan = replace(record.plan, segments=[replace(record.plan.segments[0], layers=names)])
    chips = read_drawing(write_page(replace(record, plan=plan), None)).findall("li/div/ul/li")
    assert [chip.text for chip in chips] == [f"block{block} (9)" for block in range(6)]
    assert ", ".join(chip.get("title", "") for chip in chips).split(", ") == names


@pytest.mark.parametrize(
    ("strategy", "kind", "title"), [("synthetic", "codes", "segment"), ("1f1b", "activations", "stage")]
)
def test_boundaries_show_what_crosses_them(strategy: str, kind: str, title: str, run: Path, tmp_path: Path) -> None:
    record = RunRecord.read(run)
    record = replace(
        record,
        folder=tmp_path,
        evaluation={},
        results=record.results | {"strategy": {"name": strategy, "microbatches": 4}},
    )
    drawing = read_drawing(write_page(record, None))
    arrows = drawing.findall("li/p")
    assert [arrow.get("class") for arrow in arrows] == ["boundary data", f"boundary {kind}", "boundary data"]
    assert [text_of(arrow) for arrow in arrows] == ["the data 1×8×8", f"{kind}, 32 (dropout1)", "the classes 5"]
    assert [len(arrow.findall("svg/path[@class='cut']")) for arrow in arrows] == [0, kind == "codes", 0]
    assert [text_of(card) for card in drawing.findall("li/div/p[@class='title']")] == [
        f"{title} {n} cpu" for n in range(2)
    ]
    costs = ["3.14 k parameters, 6.14 k FLOPs/image", "1.22 k parameters, 2.37 k FLOPs/image"]
    assert [text_of(card) for card in drawing.findall("li/div/p[2]")] == costs


def test_names_in_the_drawing_are_text(small: Dataset, tmp_path: Path) -> None:
    record = dry_run(tmp_path, small, partition=PartitionSettings(segments=2, dry_run=True))
    assert record.plan is not None
    odd = "<b>\"&amp;'_</li>"
    first = replace(record.plan.segments[0], layers=[odd], stop=odd)
    plan = replace(record.plan, network={"name": odd}, segments=[first, record.plan.segments[1]])
    drawing = read_drawing(write_page(replace(record, plan=plan), None))
    assert drawing.get("aria-label") == f"{odd} in 2 segments, from the data to the classes"
    layer = drawing.find("li/div/ul/li")
    assert layer is not None
    assert (layer.text, layer.get("title")) == (odd, odd)
    assert text_of(drawing.findall("li/p")[1]) == f"codes, 32 ({odd})"
