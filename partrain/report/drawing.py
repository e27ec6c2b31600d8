"""The network as inline SVG: its layers in their segments, and what every boundary between them carries.

Pairs of a boundary and the segment behind it flow in rows that are as wide as the drawing; colours are the page's.
"""

from dataclasses import dataclass
from html import escape
from itertools import groupby

from partrain.report.formatting import count
from partrain.report.record import RunRecord, shape

_SMALL, _TEXT, _LETTER = 6.4, 7.6, 7.3  # widths of a letter, generous: small text, 14 px bold, layers' monospace
_PAD, _CHIP, _CHIP_GAP, _LINE = 14, 24, 6, 17
_MARGIN, _ROW_GAP = 14, 34
_MOST_CHIPS = 24  # in a segment, before layers are grouped by the module they are in


@dataclass
class _Card:
    """A segment and the boundary before it; `chips` holds rows of (text, full names)."""

    index: int
    title: str
    device: str
    costs: list[str]
    layers: list[tuple[str, str]]
    boundary: list[str]
    gap: float
    width: float = 0
    height: float = 0
    rows: int = 0

    def narrowest(self, most: float) -> float:
        """The width that its text needs, and its layers in few rows."""
        text = max(_TEXT * len(self.title) + _SMALL * len(self.device) + 12, *(_SMALL * len(c) for c in self.costs))
        chips = sum(_chip_width(name) + _CHIP_GAP for name, _ in self.layers)
        return min(most, max(text, min(chips, 360), max(_chip_width(name) for name, _ in self.layers)) + 2 * _PAD)

    def settle(self, width: float) -> None:
        """Take `width`, and the height that follows from it."""
        self.width = width
        joined = "  ·  ".join(self.costs)
        if _SMALL * len(joined) <= width - 2 * _PAD:
            self.costs = [joined]
        self.rows = 1 + max((row for _, _, row, _ in self.chips()), default=0)
        self.height = 40 + _LINE * len(self.costs) + self.rows * (_CHIP + _CHIP_GAP) + 6

    def chips(self) -> list[tuple[str, str, int, float]]:
        """Text, full names, row and left edge of each layer's box, from left to right and downwards."""
        placed, row, x, room = [], 0, 0.0, self.width - 2 * _PAD
        most = int((room - 16) / _LETTER)
        for name, full in self.layers:
            name = name if len(name) <= most else f"…{name[1 - most :]}"
            if x > 0 and x + _chip_width(name) > room:
                row, x = row + 1, 0.0
            placed.append((name, full, row, x))
            x += _chip_width(name) + _CHIP_GAP
        return placed


def draw_network(record: RunRecord, width: int) -> str:
    """An SVG element `width` units wide. `record` has a plan."""
    cards = _cards(record)
    last = _boundary_text(record.boundaries()[-1])
    rows = _rows(cards, width - 2 * _MARGIN, _gap(last))
    parts, top, end = [], 6.0, (0.0, 0.0)
    for number, row in enumerate(rows):
        height = max(card.height for card in row)
        middle, x = top + height / 2, float(_MARGIN)
        if number > 0:
            parts.append(_turn(end, (x, middle), top - _ROW_GAP / 2, width))
        for card in row:
            kind = "data" if card.index == 0 else "codes" if record.uses_codes else "activations"
            parts.append(_boundary(card.boundary, kind, x, x + card.gap, middle))
            parts.append(_card(card, x + card.gap, middle - card.height / 2))
            x += card.gap + card.width
        end = (x, middle)
        top += height + _ROW_GAP
    parts.append(_boundary(last, "data", end[0], end[0] + _gap(last), end[1]))
    label = escape(f"{record.network} in {len(cards)} segments, from the data to the classes")
    return (
        f'<svg class="network" viewBox="0 0 {width} {top - _ROW_GAP + 6:.0f}" role="img" aria-label="{label}" '
        f'style="max-width:{width}px">{"".join(parts)}</svg>'
    )


def _cards(record: RunRecord) -> list[_Card]:
    cards = []
    name = "segment" if record.uses_codes or len(record.segments) == 1 else "stage"
    first = ["the data", shape(record.segments[0].input_shape)]
    for segment, before in zip(record.segments, [None, *record.boundaries()], strict=False):
        text = first if before is None else _boundary_text(before)
        cards.append(
            _Card(
                index=segment.index,
                title=f"{name} {segment.index}" if len(record.segments) > 1 else "the whole network",
                device=record.devices(segment),
                costs=[f"{count(segment.parameters)} parameters", f"{count(segment.flops)} FLOPs/image"],
                layers=_grouped(segment.layers),
                boundary=text,
                gap=_gap(text),
            )
        )
    return cards


def _grouped(layers: list[str]) -> list[tuple[str, str]]:
    """Text and full names of the boxes: a layer each, or a module each where there are many layers."""
    if len(layers) <= _MOST_CHIPS:
        return [(name, name) for name in layers]
    boxes = []
    for _, group in groupby(layers, key=lambda name: name.rpartition(".")[0] or name):
        names = list(group)
        module = names[0].rpartition(".")[0]
        boxes.append((f"{module} ({len(names)})" if len(names) > 1 else names[0], ", ".join(names)))
    return boxes


def _rows(cards: list[_Card], width: float, last_gap: float) -> list[list[_Card]]:
    """The cards in rows no wider than `width`, stretched to fill them; the last row leaves `last_gap` on its right."""
    rows = _filled(cards, width, last_gap)
    each = -(-len(cards) // len(rows))
    even = [cards[first : first + each] for first in range(0, len(cards), each)]
    if all(sum(_room(card, width) for card in row) + last_gap <= width for row in even):
        rows = even
    for row in rows:
        free = width - sum(card.gap for card in row) - (last_gap if row is rows[-1] else 0)
        least = [card.narrowest(free) for card in row]
        for card, narrowest in zip(row, least, strict=True):
            card.settle(narrowest + (free - sum(least)) / len(row))
    return rows


def _filled(cards: list[_Card], width: float, last_gap: float) -> list[list[_Card]]:
    """As few rows as there can be, each as full as possible."""
    rows: list[list[_Card]] = [[]]
    left = width
    for card in cards:
        room = _room(card, width - last_gap)
        if rows[-1] and room + (last_gap if card is cards[-1] else 0) > left:
            rows.append([])
            left = width
        rows[-1].append(card)
        left -= room
    return rows


def _room(card: _Card, width: float) -> float:
    return card.gap + card.narrowest(width - card.gap)


def _chip_width(name: str) -> float:
    return _LETTER * len(name) + 16


def _boundary_text(boundary: str) -> list[str]:
    """ "codes, 512 (relu2)" in the two lines over and under the arrow."""
    head, _, cut = boundary.partition(" (")
    if cut:
        return [head, f"({cut}" if len(cut) <= 16 else f"({cut[:14]}…)"]
    number, _, word = boundary.partition(" ")
    return [word, number]


def _gap(text: list[str]) -> float:
    return max(70.0, _SMALL * max(map(len, text)) + 28)


def _boundary(text: list[str], kind: str, left: float, right: float, y: float) -> str:
    """An arrow through a boundary: broken where codes stand on it, both ways where gradients come back."""
    x, left, right = (left + right) / 2, left + 5, right - 5
    room = {"codes": 14, "activations": 5}.get(kind, 0)
    if kind == "codes":
        lines = _arrow(left, x - 5, y) + _arrow(x + 5, right, y)
        lines += f'<path class="cut" d="M{x:.1f} {y - 17:.1f}v34"/>'
    elif kind == "activations":
        lines = _arrow(left, right, y - 4) + _arrow(right, left, y + 4)
    else:
        lines = _arrow(left, right, y)
    over, under = (escape(line) for line in text)
    return (
        f'<g class="boundary">{lines}<text class="over" x="{x:.1f}" y="{y - 10 - room:.1f}">{over}</text>'
        f'<text x="{x:.1f}" y="{y + 21 + room:.1f}">{under}</text></g>'
    )


def _arrow(start: float, end: float, y: float) -> str:
    back = -6 if end > start else 6
    return f'<path d="M{start:.1f} {y:.1f}H{end:.1f}m{back} -4l{-back} 4l{back} 4"/>'


def _turn(start: tuple[float, float], end: tuple[float, float], between: float, width: int) -> str:
    """The way from the end of one row to the beginning of the next."""
    right, left = width - 3.0, 3.0
    down, back = f"H{right}V{between:.1f}", f"H{left}V{end[1]:.1f}H{end[0] + 4:.1f}"
    return f'<path class="turn" d="M{start[0] + 4:.1f} {start[1]:.1f}{down}{back}"/>'


def _card(card: _Card, x: float, y: float) -> str:
    costs = "".join(
        f'<text x="{x + _PAD:.1f}" y="{y + 43 + _LINE * number:.1f}">{escape(cost)}</text>'
        for number, cost in enumerate(card.costs)
    )
    top = y + 40 + _LINE * len(card.costs)
    chips = "".join(
        f'<g class="layer"><title>{escape(full)}</title>'
        f'<rect x="{x + _PAD + left:.1f}" y="{top + row * (_CHIP + _CHIP_GAP):.1f}" rx="5" '
        f'width="{_chip_width(name):.1f}" height="{_CHIP}"/>'
        f'<text x="{x + _PAD + left + _chip_width(name) / 2:.1f}" y="{top + row * (_CHIP + _CHIP_GAP) + 16:.1f}">'
        f"{escape(name)}</text></g>"
        for name, full, row, left in card.chips()
    )
    return (
        f'<g class="segment c{card.index % 7}">'
        f'<rect class="card" x="{x:.1f}" y="{y:.1f}" width="{card.width:.1f}" height="{card.height:.1f}" rx="10"/>'
        f'<text class="name" x="{x + _PAD:.1f}" y="{y + 25:.1f}">{escape(card.title)}</text>'
        f'<text class="device" x="{x + card.width - _PAD:.1f}" y="{y + 25:.1f}">{escape(card.device)}</text>'
        f"{costs}{chips}</g>"
    )
