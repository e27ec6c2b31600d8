"""The facts that the drawing of a network shows, which templates/network.html.j2 lays out as HTML."""

from itertools import groupby
from typing import Literal, NamedTuple

from partrain.partition.plan import SegmentPlan
from partrain.report.formatting import count
from partrain.report.record import RunRecord, shape

_MAX_CHIPS = 24  # a segment with more layers shows its modules instead


class LayerChip(NamedTuple):
    """A layer, or a module with the full names of all of its layers that are in the segment."""

    text: str
    full_names: str


class BoundaryArrow(NamedTuple):
    """An arrow with two lines of text: "codes, 512" and "(relu2)", or "the data" and "1×28×28".

    Synthetic codes cut a boundary of kind "codes". Gradients come back across one of kind "activations".
    """

    kind: Literal["data", "codes", "activations"]
    carried: str
    detail: str


class SegmentCard(NamedTuple):
    """A segment with its title, device, costs and layers, and the arrow that leads to it."""

    incoming: BoundaryArrow
    title: str
    device: str
    costs: list[str]
    chips: list[LayerChip]


class NetworkDrawing(NamedTuple):
    """A network's segments in the order of its data flow, and the arrow to its classes."""

    label: str
    cards: list[SegmentCard]
    outgoing: BoundaryArrow


def network_drawing(record: RunRecord) -> NetworkDrawing:
    """Return what the drawing of a run's network shows, given the record of a run that has a plan."""
    first = BoundaryArrow("data", "the data", shape(record.segments[0].input_shape))
    *between, classes = record.boundaries()
    incoming = [first, *(_boundary_arrow(boundary, record.uses_codes) for boundary in between)]
    segments = f"{len(incoming)} segment{'s' * (len(incoming) != 1)}"
    return NetworkDrawing(
        label=f"{record.network} in {segments}, from the data to the classes",
        cards=[_card(record, *pair) for pair in zip(record.segments, incoming, strict=True)],
        outgoing=BoundaryArrow("data", "the classes", classes.partition(" ")[0]),
    )


def _boundary_arrow(boundary: str, uses_codes: bool) -> BoundaryArrow:
    """Return the arrow of a boundary between two segments, given its text, e.g. "codes, 512 (relu2)"."""
    carried, _, cut = boundary.partition(" (")
    return BoundaryArrow("codes" if uses_codes else "activations", carried, f"({cut}")


def _card(record: RunRecord, segment: SegmentPlan, incoming: BoundaryArrow) -> SegmentCard:
    """Return the card of one of the record's segments."""
    name = "segment" if record.uses_codes else "stage"
    return SegmentCard(
        incoming=incoming,
        title=f"{name} {segment.index}" if len(record.segments) > 1 else "the whole network",
        device=record.devices(segment),
        costs=[f"{count(segment.parameters)} parameters", f"{count(segment.flops)} FLOPs/image"],
        chips=_grouped(segment.layers),
    )


def _grouped(layers: list[str]) -> list[LayerChip]:
    """Return a chip for each layer, or for each module where there are more than `_MAX_CHIPS` layers."""
    if len(layers) <= _MAX_CHIPS:
        return [LayerChip(name, name) for name in layers]
    chips = []
    for _, group in groupby(layers, key=lambda name: name.rpartition(".")[0] or name):
        names = list(group)
        module = names[0].rpartition(".")[0]
        chips.append(LayerChip(f"{module} ({len(names)})" if len(names) > 1 else names[0], ", ".join(names)))
    return chips
