"""Where a network is cut: settings, the choice of cuts, and the plan that every later step reads."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from partrain import checks
from partrain.errors import UserError
from partrain.networks import Chain, Cut, NetworkSettings
from partrain.partition.cost import NodeCost, measure_costs
from partrain.partition.receptive_field import receptive_fields

BALANCES = ("layers", "compute", "parameters", "memory")

_STATE_BYTES = 16  # per parameter in training: weight, gradient and Adam's two moments, four bytes each


@dataclass(kw_only=True)
class PartitionSettings:
    """The settings of where a network is cut into segments."""

    segments: int | None = None
    """Number of segments, from 1 to the number of layers. By default 2, or what partition.at says."""
    at: list[int | str] | None = None
    """Layers to cut before, by number from 0 or by module name, such as [2,4] or [linear3]. By default cuts give
    segments of equal partition.balance."""
    balance: str = "layers"
    """What every segment gets an equal share of: layers, compute, parameters or memory."""
    before_activation: bool = False
    """Whether cuts are before a layer's activation function instead of after it."""
    dry_run: bool = False
    """Whether the command only checks the settings and prints what it would train."""

    def __post_init__(self) -> None:
        checks.one_of("partition.balance", self.balance, BALANCES)
        if self.segments is not None:
            checks.at_least("partition.segments", self.segments, 1)
            if self.at is not None and len(self.at) + 1 != self.segments:
                raise UserError(
                    f"partition.at={list(self.at)} makes {len(self.at) + 1} segments, but partition.segments="
                    f"{self.segments}; give one of the two"
                )

    @property
    def num_segments(self) -> int:
        if self.at is not None:
            return len(self.at) + 1
        return 2 if self.segments is None else self.segments


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """One segment: what it holds, what it costs per image, and its boundaries (cut names, None at the network's ends).

    `receptive_field`: pixels along a side of the image that a value of its output can depend on.
    """

    index: int
    layers: list[str]
    start: str | None
    stop: str | None
    input_shape: list[int]
    output_shape: list[int]
    parameters: int
    flops: int
    activation_bytes: int
    receptive_field: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network and its cuts. `imbalance`: the largest segment's share of `balance` over the mean share, minus 1."""

    network: dict[str, Any]
    input_shape: list[int]
    num_classes: int
    balance: str
    imbalance: float
    segments: list[SegmentPlan]

    @property
    def cuts(self) -> list[str]:
        """The cuts' names, from left to right."""
        return [segment.stop for segment in self.segments if segment.stop is not None]

    def warnings(self) -> list[str]:
        """What about the cuts makes a good accuracy unlikely."""
        side = min(self.input_shape[-2:])
        return [
            f"segment {segment.index} ends where a value sees {segment.receptive_field}×{segment.receptive_field} of "
            f"{side}×{side} pixels, too little to say a class by; cut later"
            for segment in self.segments[:-1]
            if segment.receptive_field < side
        ]


def make_plan(
    network: NetworkSettings, input_shape: Sequence[int], num_classes: int, settings: PartitionSettings, batch_size: int
) -> Plan:
    """Cut `network` as `settings` say. `batch_size` weighs activations against weights where memory is balanced.

    Raises:
        ValueError: the network cannot be cut so; the message names the setting.
    """
    chain = Chain.build(network, input_shape, num_classes)
    costs = measure_costs(chain, input_shape)
    output_shape = costs[chain.output.name].shape
    if output_shape != (num_classes,):
        raise UserError(
            f"network: its output has shape {output_shape} per image, expected ({num_classes},): the classes"
        )
    if settings.at is not None:
        cuts = _cuts_at(chain, settings)
    else:
        cuts = _balanced_cuts(chain, costs, settings, input_shape, batch_size)
    segments = _describe(chain, costs, cuts, input_shape)
    shares = [_share(segment, settings.balance, batch_size) for segment in segments]
    return Plan(
        network=asdict(network),
        input_shape=list(input_shape),
        num_classes=num_classes,
        balance=settings.balance,
        imbalance=max(shares) * len(shares) / max(1, sum(shares)) - 1,
        segments=segments,
    )


def _cuts_at(chain: Chain, settings: PartitionSettings) -> list[Cut]:
    assert settings.at is not None
    shown = f"partition.at={list(settings.at)}"
    cuts = []
    for place in settings.at:
        if isinstance(place, str):
            cuts.append(chain.cut_before(place))
        elif 0 < place < len(chain.layers):
            cuts.append(chain.cut_behind(place - 1, settings.before_activation))
        else:
            last = len(chain.layers) - 1
            raise UserError(f"{shown}: {place} is out of range; the network has {last + 1} layers, so 1 to {last}")
    positions = [cut.position for cut in cuts]
    if len(set(positions)) < len(positions):
        raise UserError(f"{shown}: a cut is repeated, which would leave a segment empty; give each cut once")
    if positions != sorted(positions):
        raise UserError(f"{shown}: cuts must be in ascending order")
    for start, stop in zip([0, *positions], [*positions, len(chain.nodes)], strict=True):
        if not any(start <= layer.start < stop for layer in chain.layers):
            raise UserError(f"{shown}: no layer with weights stands between two of the cuts; move one of them")
    return cuts


def _balanced_cuts(
    chain: Chain,
    costs: dict[str, NodeCost],
    settings: PartitionSettings,
    input_shape: Sequence[int],
    batch_size: int,
) -> list[Cut]:
    wanted, available = settings.num_segments, len(chain.layers)
    if wanted > available:
        raise UserError(
            f"partition.segments={wanted}, but the network has {available} layers; at most one segment each"
        )
    if wanted == 1:
        return []  # whatever the network ties together
    cuts_behind = [chain.cut_behind(number, settings.before_activation) for number in range(available - 1)]
    layers = _describe(chain, costs, cuts_behind, input_shape)
    shares = [_share(layer, settings.balance, batch_size) for layer in layers]
    return [cuts_behind[stop - 1] for stop in _balance(shares, wanted)[:-1]]


def _balance(shares: list[float], pieces: int) -> list[int]:
    """Ends of `pieces` consecutive groups, none empty, whose largest sum is the least; earlier groups are the larger."""
    total = [0.0]
    for share in shares:
        total.append(total[-1] + share)
    # best[n]: largest sum of the first n shares in k groups, and minus the groups' ends, which makes the least unique
    best: dict[int, tuple[float, tuple[int, ...]]] = {n: (total[n], (-n,)) for n in range(1, len(shares) + 1)}
    for k in range(2, pieces + 1):
        best = {
            n: min((max(best[m][0], total[n] - total[m]), (*best[m][1], -n)) for m in range(k - 1, n))
            for n in range(k, len(shares) + 1)
        }
    return [-end for end in best[len(shares)][1]]


def _share(segment: SegmentPlan, balance: str, batch_size: int) -> float:
    return {
        "layers": float(len(segment.layers)),
        "compute": float(segment.flops),
        "parameters": float(segment.parameters),
        "memory": float(segment.parameters * _STATE_BYTES + segment.activation_bytes * batch_size),
    }[balance]


def _describe(
    chain: Chain, costs: dict[str, NodeCost], cuts: Sequence[Cut], input_shape: Sequence[int]
) -> list[SegmentPlan]:
    edges: list[Cut | None] = [None, *cuts, None]
    fields = receptive_fields(chain, input_shape)
    segments = []
    owner: dict[int, int] = {}
    for index, (start, stop) in enumerate(itertools.pairwise(edges)):
        first = 0 if start is None else start.position
        last = len(chain.nodes) if stop is None else stop.position
        parameters = dict(chain.extract_segment(start, stop).named_parameters())
        for name, parameter in parameters.items():
            if owner.setdefault(id(parameter), index) != index:
                raise UserError(f"network: parameter {name} is used on both sides of a cut; cut elsewhere or untie it")
        nodes = chain.nodes[first:last]
        segments.append(
            SegmentPlan(
                index=index,
                layers=[layer.name for layer in chain.layers if first <= layer.start < last],
                start=start.name if start else None,
                stop=stop.name if stop else None,
                input_shape=list(input_shape) if start is None else list(costs[start.name].shape or ()),
                output_shape=list(costs[chain.output.name if stop is None else stop.name].shape or ()),
                parameters=sum(parameter.numel() for parameter in parameters.values()),
                flops=sum(costs[node.name].flops for node in nodes),
                activation_bytes=sum(costs[node.name].activation_bytes for node in nodes),
                receptive_field=fields[chain.output.name if stop is None else stop.name],
            )
        )
    return segments
