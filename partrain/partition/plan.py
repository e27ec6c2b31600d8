"""The plan of a network's segments: the settings it follows, the choice of cuts, and what each segment costs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from partrain import checks
from partrain.errors import UserError
from partrain.networks import Chain, Cut, NetworkSettings
from partrain.options import Settings
from partrain.partition.cost import measure_costs
from partrain.partition.receptive_field import receptive_fields
from partrain.storage import checkpoint
from partrain.storage.formats import FORMAT, check_format, upgrade_network

BALANCES = ("layers", "compute", "parameters", "memory")
"""The quantities of which segments can have equal shares."""

_STATE_BYTES = 16  # per parameter in training: weight, gradient and Adam's two moments, four bytes each


@dataclass(kw_only=True)
class PartitionSettings(Settings):
    """The settings of where a network is cut into segments."""

    group: ClassVar[str] = "partition"

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
        super().__post_init__()
        checks.one_of("partition.balance", self.balance, BALANCES)
        if self.segments is not None:
            checks.at_least("partition.segments", self.segments, 1)
            if self.at is not None and len(self.at) + 1 != self.segments:
                raise UserError(
                    f"partition.at={list(self.at)} makes {len(self.at) + 1} segments, but partition.segments="
                    f"{self.segments}. Give only one of the two."
                )

    @property
    def num_segments(self) -> int:
        """Return the number of segments, from whichever setting gives it."""
        if self.at is not None:
            return len(self.at) + 1
        return 2 if self.segments is None else self.segments


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """One segment of a plan, with its costs per image.

    Attributes:
        index: Number of the segment, from 0.
        layers: Names of its layers.
        start: Name of the cut before it, or None at the network's input.
        stop: Name of the cut after it, or None at the network's output.
        input_shape: Shape of its input, without the batch.
        output_shape: Shape of its output, without the batch.
        parameters: Number of its parameters.
        flops: Floating-point operations of its forward pass.
        activation_bytes: Bytes that are stored for its backward pass.
        receptive_field: Pixels along a side of the image that a value of its output depends on.
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
    """A network and its segments, as plan.json holds them.

    Attributes:
        network: Settings of the network.
        input_shape: Shape of an image: [channels, height, width].
        num_classes: Number of classes.
        balance: The quantity of which every segment should have an equal share, one of `BALANCES`.
        imbalance: The largest segment's share over the mean share, minus 1.
        segments: The segments, from the network's input to its output.
    """

    network: dict[str, Any]
    input_shape: list[int]
    num_classes: int
    balance: str
    imbalance: float
    segments: list[SegmentPlan]

    def write(self, path: Path, *, sync: bool = True) -> None:
        """Write the plan to a file as JSON."""
        checkpoint.write_json(path, {"format": FORMAT, **asdict(self)}, sync=sync)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Return the plan in a file.

        Raises:
            FileNotFoundError: If there is no such file.
            UserError: If the file is damaged, or of a format that this version does not read.
        """
        values = checkpoint.read_json(path)
        try:
            if not check_format(path, values.pop("format", None)):
                values["network"] = upgrade_network(values["network"])
            return cls(**values | {"segments": [SegmentPlan(**segment) for segment in values["segments"]]})
        except (TypeError, KeyError, AttributeError) as error:
            raise checkpoint.DamagedFile(f"{path} is damaged ({error}); start a new run in a new folder") from None

    @property
    def cuts(self) -> list[str]:
        """Return the names of the cuts, from the network's input to its output."""
        return [segment.stop for segment in self.segments if segment.stop is not None]

    def warnings(self) -> list[str]:
        """Return a warning for each cut that makes a good accuracy unlikely."""
        side = min(self.input_shape[-2:])
        return [
            f"Segment {segment.index} ends where a value depends on only {segment.receptive_field}×"
            f"{segment.receptive_field} of {side}×{side} pixels, too few to tell a class. Cut later."
            for segment in self.segments[:-1]
            if segment.receptive_field < side
        ]


def make_plan(
    network: NetworkSettings, input_shape: Sequence[int], num_classes: int, settings: PartitionSettings, batch_size: int
) -> Plan:
    """Cut a network as the settings ask, and return its plan.

    Args:
        network: Settings of the network.
        input_shape: Shape of an image: (channels, height, width).
        num_classes: Number of classes.
        settings: Number or places of the cuts.
        batch_size: Images per batch, by which activations count where memory is balanced.

    Raises:
        UserError: If the network cannot be cut so. The message names the setting.
    """
    chain = Chain.build(network, input_shape, num_classes)
    measured = _MeasuredChain(chain, input_shape)
    output_shape = measured.costs[chain.output.name].shape
    if output_shape != (num_classes,):
        raise UserError(
            f"network: its output has shape {output_shape} per image, expected ({num_classes},). "
            "Give it one output for each class."
        )
    if settings.at is not None:
        cuts = _cuts_at(chain, settings.at, before_activation=settings.before_activation)
    else:
        cuts = _balanced_cuts(measured, settings, batch_size)
    segments = measured.describe_segments(cuts)
    shares = [_share(segment, settings.balance, batch_size) for segment in segments]
    return Plan(
        network=asdict(network),
        input_shape=list(input_shape),
        num_classes=num_classes,
        balance=settings.balance,
        imbalance=max(shares) * len(shares) / max(1, sum(shares)) - 1,
        segments=segments,
    )


class _MeasuredChain:
    """A network with the cost and the receptive field of each of its nodes."""

    def __init__(self, chain: Chain, input_shape: Sequence[int]) -> None:
        self.chain = chain
        self.input_shape = input_shape
        self.costs = measure_costs(chain, input_shape)
        self.receptive_fields = receptive_fields(chain, input_shape)

    def describe_segments(self, cuts: Sequence[Cut]) -> list[SegmentPlan]:
        """Return the segments that `cuts` make, from left to right.

        Raises:
            UserError: If a parameter is used in two of them.
        """
        ends = list(itertools.pairwise([None, *cuts, None]))
        parameters = [dict(self.chain.extract_segment(start, stop).named_parameters()) for start, stop in ends]
        _check_not_tied(parameters)
        return [
            self._describe_segment(index, start, stop, sum(tensor.numel() for tensor in by_name.values()))
            for index, ((start, stop), by_name) in enumerate(zip(ends, parameters, strict=True))
        ]

    def _describe_segment(self, index: int, start: Cut | None, stop: Cut | None, num_parameters: int) -> SegmentPlan:
        costs = [self.costs[node.name] for node in self.chain.nodes_between(start, stop)]
        output = self.chain.output.name if stop is None else stop.name
        return SegmentPlan(
            index=index,
            layers=[layer.name for layer in self.chain.layers_between(start, stop)],
            start=start.name if start else None,
            stop=stop.name if stop else None,
            input_shape=list(self.input_shape) if start is None else list(self.costs[start.name].shape or ()),
            output_shape=list(self.costs[output].shape or ()),
            parameters=num_parameters,
            flops=sum(cost.flops for cost in costs),
            activation_bytes=sum(cost.activation_bytes for cost in costs),
            receptive_field=self.receptive_fields[output],
        )


def _check_not_tied(parameters: Sequence[Mapping[str, nn.Parameter]]) -> None:
    """Raise `UserError` if two segments share a parameter, given each segment's parameters by name."""
    owners: dict[int, int] = {}
    for index, by_name in enumerate(parameters):
        for name, parameter in by_name.items():
            if owners.setdefault(id(parameter), index) != index:
                raise UserError(
                    f"network: parameter {name} is used on both sides of a cut. Cut elsewhere, or give each its own."
                )


# ---- Cuts at given places.


def _cuts_at(chain: Chain, places: Sequence[int | str], *, before_activation: bool) -> list[Cut]:
    """Return the cuts at layer numbers and before modules, in this order.

    Raises:
        UserError: If a place cannot be cut, or the cuts are not in order or leave a segment without weights.
    """
    setting = f"partition.at={list(places)}"
    cuts = []
    for place in places:
        if isinstance(place, str):
            cuts.append(chain.cut_before(place))
        elif 0 < place < len(chain.layers):
            cuts.append(chain.cut_after(place - 1, before_activation=before_activation))
        else:
            raise UserError(
                f"{setting}: {place} is out of range, since the network has {len(chain.layers)} layers. "
                f"Use numbers from 1 to {len(chain.layers) - 1}."
            )
    _check_cuts(chain, cuts, setting)
    return cuts


def _check_cuts(chain: Chain, cuts: Sequence[Cut], setting: str) -> None:
    """Raise `UserError` if the cuts are not in order, or leave a segment without weights."""
    positions = [cut.position for cut in cuts]
    if len(set(positions)) < len(positions):
        raise UserError(f"{setting} repeats a cut, which would leave a segment empty. Name each cut once.")
    if positions != sorted(positions):
        raise UserError(f"{setting} is not in ascending order. List the cuts from the first layer to the last.")
    for start, stop in itertools.pairwise([None, *cuts, None]):
        if not chain.layers_between(start, stop):
            raise UserError(f"{setting} leaves a segment without any layer with weights. Move one of the cuts.")


# ---- Balanced cuts.


def _balanced_cuts(measured: _MeasuredChain, settings: PartitionSettings, batch_size: int) -> list[Cut]:
    """Return the cuts that make `settings.num_segments` segments with as equal shares of the balance as possible."""
    num_segments, num_layers = settings.num_segments, len(measured.chain.layers)
    if num_segments > num_layers:
        raise UserError(
            f"partition.segments={num_segments} is more than the network's {num_layers} layers. "
            f"Set it to {num_layers} or less."
        )
    if num_segments == 1:
        return []  # Without a cut, parameters may be shared by layers.
    cuts = [
        measured.chain.cut_after(number, before_activation=settings.before_activation)
        for number in range(num_layers - 1)
    ]
    shares = [_share(layer, settings.balance, batch_size) for layer in measured.describe_segments(cuts)]
    return [cuts[end - 1] for end in _split_evenly(shares, num_segments)[:-1]]


def _share(segment: SegmentPlan, balance: str, batch_size: int) -> float:
    """Return a segment's share of the quantity that is balanced."""
    return {
        "layers": float(len(segment.layers)),
        "compute": float(segment.flops),
        "parameters": float(segment.parameters),
        "memory": float(segment.parameters * _STATE_BYTES + segment.activation_bytes * batch_size),
    }[balance]


def _split_evenly(shares: list[float], num_groups: int) -> list[int]:
    """Split a sequence into consecutive groups, none empty, so that the largest sum is as small as possible.

    Among equally good splits, earlier groups are the larger ones.

        shares 5 1 1 4 2 7 3 1 in 3 groups:   5 1 1 | 4 2 | 7 3 1   has the largest sum 11
                                              5 1 1 4 | 2 7 | 3 1   has the same, and a larger first group

    Returns:
        The position after the last element of each group.
    """
    total = [0.0]  # total[n]: the sum of the first n shares
    for share in shares:
        total.append(total[-1] + share)
    # Dynamic programming over the number of groups k. best[n] is the best split of the first n shares into k groups:
    # its largest sum, then minus each group's end, so that the smallest tuple is unique and has the latest ends.
    best: dict[int, tuple[float, tuple[int, ...]]] = {n: (total[n], (-n,)) for n in range(1, len(shares) + 1)}
    for k in range(2, num_groups + 1):
        best = {
            n: min((max(best[m][0], total[n] - total[m]), (*best[m][1], -n)) for m in range(k - 1, n))
            for n in range(k, len(shares) + 1)
        }
    return [-end for end in best[len(shares)][1]]
