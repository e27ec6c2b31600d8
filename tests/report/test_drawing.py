"""The drawing holds every layer once, inside its segment, and nothing overlaps or sticks out."""

import itertools
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.networks import MLPSettings, NetworkSettings, TorchvisionSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.drawing import draw_network
from partrain.report.record import RunRecord

Box = tuple[float, float, float, float]


def boxes(element: ElementTree.Element, path: str) -> list[Box]:
    """Left, top, right and bottom of the rectangles at `path`."""
    found = []
    for each in element.iterfind(path):
        x, y, width, height = (float(each.attrib[name]) for name in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def inside(inner: Box, outer: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("width", [1096, 340])
@pytest.mark.parametrize(
    ("network", "segments", "names"),
    [
        (MLPSettings(depth=6, width=16), 2, [f"linear{n}" for n in range(6)]),
        (MLPSettings(depth=6, width=16), 6, [f"linear{n}" for n in range(6)]),
        (MLPSettings(depth=50, width=16), 7, [f"linear{n}" for n in range(50)]),
        (TorchvisionSettings(name="resnet18"), 3, None),
    ],
)
def test_layers_are_in_their_segments(
    network: NetworkSettings, segments: int, names: list[str] | None, width: int, small: Dataset, tmp_path: Path
) -> None:
    settings = small_settings(network=network, partition=PartitionSettings(segments=segments, dry_run=True))
    partrain.run(settings, tmp_path, dataset=small, show=False)
    record = RunRecord.read(tmp_path)
    drawing = ElementTree.fromstring(draw_network(record, width))
    _, _, full_width, height = map(float, drawing.attrib["viewBox"].split())
    assert full_width == width
    cards = boxes(drawing, "g/rect[@class='card']")
    assert len(cards) == segments
    assert all(inside(card, (0, 0, width, height)) for card in cards)
    assert not any(overlap(*pair) for pair in itertools.combinations(cards, 2))
    groups = drawing.iterfind("g/rect[@class='card']/..")
    for group, card, segment in zip(groups, cards, record.segments, strict=True):
        layers = boxes(group, "g[@class='layer']/rect")
        assert all(inside(layer, card) for layer in layers)
        assert not any(overlap(*pair) for pair in itertools.combinations(layers, 2))
        titles = [title.text or "" for title in group.iterfind("g[@class='layer']/title")]
        assert ", ".join(titles).split(", ") == segment.layers
    if names is not None:
        assert [name for segment in record.segments for name in segment.layers] == names


def test_many_layers_are_grouped_by_module(small: Dataset, tmp_path: Path) -> None:
    settings = small_settings(partition=PartitionSettings(segments=1, dry_run=True))
    partrain.run(settings, tmp_path, dataset=small, show=False)
    record = RunRecord.read(tmp_path)
    assert record.plan is not None
    names = [f"block{block}.layer{layer}" for block in range(6) for layer in range(9)]
    plan = replace(record.plan, segments=[replace(record.plan.segments[0], layers=names)])
    drawing = ElementTree.fromstring(draw_network(replace(record, plan=plan), 1096))
    groups = list(drawing.iterfind("g/g[@class='layer']"))
    assert [group.findtext("text") for group in groups] == [f"block{block} (9)" for block in range(6)]
    assert ", ".join(group.findtext("title", "") for group in groups).split(", ") == names
