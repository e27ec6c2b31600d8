"""The contents of the drawing of a network, which templates/network.html.j2 lays out as HTML."""

from itertools import groupby
from typing import Literal, NamedTuple

from partrain.partition.plan import SegmentPlan
from partrain.report.formatting import format_count, format_quantity, format_shape
from partrain.report.record import RunRecord

# A segment with more layers than this shows its modules instead.
_MAX_CHIPS = 24


class LayerChip(NamedTuple):
    """A layer of a segment, or a module with the full names of all of its layers in the segment."""

    text: str
    full_names: str


class BoundaryArrow(NamedTuple):
    """An arrow with two lines of text, such as "codes, 512" and "(relu2)", or "the data" and "1×28×28".

    At a boundary of kind "codes", synthetic codes separate the two segments. At one of kind "activations", activations
    cross in one direction and gradients in the other.
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
    """Return the contents of the drawing of a run's network. The run must have a plan."""
    data = BoundaryArrow("data", "the data", format_shape(record.segments[0].input_shape))
    *inner_boundaries, classes = record.boundary_labels()
    incoming = [data, *(_boundary_arrow(record, label) for label in inner_boundaries)]
    segments = format_quantity(len(incoming), "segment")
    return NetworkDrawing(
        label=f"{record.network} in {segments}, from the data to the classes",
        cards=[_segment_card(record, *pair) for pair in zip(record.segments, incoming, strict=True)],
        outgoing=BoundaryArrow("data", "the classes", classes.partition(" ")[0]),
    )


def _boundary_arrow(record: RunRecord, label: str) -> BoundaryArrow:
    """Return the arrow between two segments of a run, given the boundary's label, e.g. "codes, 512 (relu2)"."""
    carried, _, cut = label.partition(" (")
    return BoundaryArrow("codes" if record.uses_codes else "activations", carried, f"({cut}")


def _segment_card(record: RunRecord, segment: SegmentPlan, incoming: BoundaryArrow) -> SegmentCard:
    """Return the card of one of a run's segments, which conventional training calls stages."""
    name = "segment" if record.uses_codes else "stage"
    return SegmentCard(
        incoming=incoming,
        title=f"{name} {segment.index}" if len(record.segments) > 1 else "the whole network",
        device=record.device_label(segment),
        costs=[f"{format_count(segment.parameters)} parameters", f"{format_count(segment.flops)} FLOPs/image"],
        chips=_layer_chips(segment.layers),
    )


def _layer_chips(layers: list[str]) -> list[LayerChip]:
    """Return a chip for each layer, or for each module if there are more than `_MAX_CHIPS` layers."""
    if len(layers) <= _MAX_CHIPS:
        return [LayerChip(name, name) for name in layers]
    chips = []
    for _, group in groupby(layers, key=lambda name: name.rpartition(".")[0] or name):
        names = list(group)
        module = names[0].rpartition(".")[0]
        text = f"{module} ({len(names)})" if len(names) > 1 else names[0]
        chips.append(LayerChip(text, ", ".join(names)))
    return chips
