"""Projections, not measurements: what the cost model says of more devices, and of other ones, than were measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cost_model.cost_model import CostModel
from cost_model.step import Constants
from cost_model.work import Setting, Stage, System, Work, joined, make_stages, traffic_bytes
from partrain.comparison.grid import COMPARED_STRATEGIES, SEQUENTIAL
from partrain.networks import MLPSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.plotly_figures import Plot, line_style, make_figure
from partrain.report.style import COLOURS
from partrain.storage.checkpoint import write_atomic
from partrain.strategies.settings import PIPELINES, REPLICAS

Row = dict[str, Any]

TITLE = "Projections of the cost model, not measurements"
HERE = "cores and links like this machine's"
STRATEGIES = tuple(name for name in COMPARED_STRATEGIES if name not in (SEQUENTIAL, "end_to_end"))
DEVICES = (2, 4, 8, 10, 20, 40, 100, 200, 500, 1000)


@dataclass(frozen=True, kw_only=True)
class Link:
    """Between two devices: `latency` in seconds, `bandwidth` in bytes per second and direction."""

    name: str
    latency: float
    bandwidth: float


# nominal bandwidths; latencies are assumed, of a message from one process to another, software included
LINKS = (
    Link(name="10 Gb/s Ethernet", latency=50e-6, bandwidth=1.25e9),
    Link(name="100 Gb/s Ethernet", latency=20e-6, bandwidth=12.5e9),
    Link(name="PCIe 4.0 x16", latency=15e-6, bandwidth=25e9),
    Link(name="NVLink 4", latency=10e-6, bandwidth=450e9),
)

# assumed, not measured: 300 TFLOP/s in bf16 and 2.5 TB/s of memory, which weights of 2 bytes, activations (written,
# and read twice) and the optimiser's 28 bytes per parameter pass; kernels started one by one; links' are filled in
GPU = Constants(
    flop=1 / 300e12,
    weight=2 / 2.5e12,
    activation=3 / 2.5e12,
    optimizer=28 / 2.5e12,
    layer=60e-6,
    fork=0.0,
    step=500e-6,
    microbatch=200e-6,
    unit=200e-6,
    message=0.0,
    byte=0.0,
    round=0.0,
    collective_byte=0.0,
)

NOTES = (
    "These are projections of a cost model, not measurements: no such number of devices was run.",
    "A device per process. This machine's cores and links: constants fitted to measured cells, as if every core had "
    "links like this machine's loopback. GPUs: assumed constants (300 TFLOP/s bf16, 2.5 TB/s of memory, 60 µs per "
    "layer, nominal bandwidths, assumed latencies), with bytes moving while kernels compute and collective operations "
    "whose latency grows with the logarithm of the number of devices.",
    "Strong scaling: the batch is the same for any number of devices; replicas share it, and would lose less to traffic "
    "with a larger one. Pipelines have the number of microbatches that is best for them in the model, to which gpipe and "
    "1f1b differ only in that 1f1b needs as many as stages.",
    "Memory is not modelled: whether replicas, weights or activations fit on a device is not asked.",
    "The accuracy that synthetic labels cost beyond K = 6 segments is unknown; samples per second say nothing of it, nor "
    "of how many epochs each strategy needs.",
)


@dataclass(frozen=True, kw_only=True)
class DeepNetwork:
    """What is projected: fully connected, `depth` layers (3 or more) `width` wide, at a fixed batch size."""

    depth: int = 1000
    width: int = 2048
    batch_size: int = 4000

    @property
    def name(self) -> str:
        return f"mlp, {self.depth:,} layers {self.width:,} wide"

    def layers(self, setting: Setting) -> list[Stage]:
        """Its layers; the inner ones are all alike, so that a plan of three tells them."""
        small = MLPSettings(depth=3, width=self.width)
        first, inner, last = make_stages(small, setting.input_shape, setting.num_classes, PartitionSettings(segments=3))
        return [first, *[inner] * (self.depth - 2), last]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A named system that is projected, and the model of it."""

    name: str
    model: CostModel
    system: System


def project(
    model: CostModel,
    network: DeepNetwork | None = None,
    devices: Sequence[int] = DEVICES,
    links: Sequence[Link] = LINKS,
    gpu: Constants = GPU,
) -> list[Row]:
    """A row per system, strategy and number of devices, and end to end on one; see `NOTES` for what is assumed.

    Numbers of devices that a strategy cannot use are left out: replicas more than images in a batch or not a divisor of
    them, stages more than layers.
    """
    network = network or DeepNetwork()
    layers = network.layers(model.setting)
    places = [_Place(name=HERE, model=model, system=System(cores=None))]
    for link in links:
        moving = {"message": link.latency, "round": link.latency}
        moving |= {"byte": 1 / link.bandwidth, "collective_byte": 1 / link.bandwidth}
        assumed = replace(model, constants=replace(gpu, **moving), unknown=frozenset())
        places.append(_Place(name=f"GPUs, {link.name}", model=assumed, system=System(cores=None, nccl=True)))
    return [
        {"network": network.name} | _best(place, works)
        for place in places
        for strategy, count in [("end_to_end", 1), *((name, count) for name in STRATEGIES for count in devices)]
        if (works := _works(strategy, count, layers, network.batch_size, model.setting))
    ]


def _works(strategy: str, count: int, layers: Sequence[Stage], batch_size: int, setting: Setting) -> list[Work]:
    """What `strategy` asks of `count` devices, for every number of microbatches that is tried; nothing if it cannot."""
    whole = strategy in REPLICAS or strategy == "end_to_end"
    if batch_size % count if whole else count > len(layers):
        return []
    ends = [len(layers)] if whole else [round(len(layers) * number / count) for number in range(1, count + 1)]
    work = Work(
        strategy=strategy,
        stages=tuple(joined(layers[start:end]) for start, end in pairwise([0, *ends])),
        processes=count,
        batch_size=batch_size,
        microbatches=1,
        num_classes=setting.num_classes,
        feature_bytes=setting.feature_bytes,
    )
    if strategy not in PIPELINES:
        return [work]
    pieces = [number for number in _divisors(batch_size) if strategy == "gpipe" or number >= count]
    return [replace(work, microbatches=number) for number in pieces]


def _divisors(number: int) -> list[int]:
    """Of `number`, each at least 1.5 times the one before: enough to come near the best."""
    found = [1]
    for divisor in range(2, number + 1):
        if number % divisor == 0 and divisor >= 1.5 * found[-1]:
            found.append(divisor)
    return found


def _best(place: _Place, works: Sequence[Work]) -> Row:
    step, work = min(
        ((place.model.step(work, place.system), work) for work in works), key=lambda found: found[0].seconds
    )
    return {
        "system": place.name,
        "strategy": work.strategy,
        "devices": work.processes,
        "batch_size": work.batch_size,
        "microbatches": work.microbatches if work.strategy in PIPELINES else None,
        "projected_step_seconds": step.seconds,
        "projected_samples_per_second": work.batch_size / step.seconds,
        "compute_seconds": step.compute,
        "communication_seconds": step.communication,
        "bubble_seconds": step.bubble,
        "traffic_bytes_per_step": traffic_bytes(work, place.system),
    }


def plot_projection(rows: Sequence[Row], path: Path) -> None:
    """Samples/s against devices, a panel per system, and bytes per step, as PNG."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    figure = Figure(figsize=(15, 4.2 * math.ceil((len(systems) + 1) / 3)))
    panels = figure.subplots(math.ceil((len(systems) + 1) / 3), 3, squeeze=False).flatten()
    for axes, system in zip(panels, systems, strict=False):
        _draw(axes, rows, system, "projected_samples_per_second")
        axes.set(title=f"projected: {system}", ylabel="samples/s, projected")
    traffic = panels[len(systems)]
    _draw(traffic, rows, systems[-1], "traffic_bytes_per_step")
    traffic.set(title="projected: bytes per step of all devices; synthetic sends none", ylabel="bytes per step")
    panels[0].legend(fontsize=8)
    for axes in panels[len(systems) + 1 :]:
        axes.set_visible(False)
    figure.suptitle(f"{TITLE}: {rows[0]['network']}, batch of {rows[0]['batch_size']:,} on any number of devices")
    figure.text(0.01, -0.01, "\n".join(NOTES), fontsize=7, va="top", wrap=True)
    figure.tight_layout()
    write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


def _draw(axes: Axes, rows: Sequence[Row], system: str, quantity: str) -> None:
    for strategy, points in _lines(rows, system, quantity):
        colour, dash = COLOURS[STRATEGIES.index(strategy)], "--" if strategy == "gpipe" else "-"
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker="o", markersize=3, label=strategy)
    axes.set(xscale="log", yscale="log", xlabel="devices")
    axes.grid(alpha=0.3)


def _lines(rows: Sequence[Row], system: str, quantity: str) -> list[tuple[str, list[tuple[int, float]]]]:
    """The points of each strategy; those that are always 0, which no logarithmic axis has, are left out."""
    lines = []
    for strategy in STRATEGIES:
        chosen = [row for row in rows if row["system"] == system and row["strategy"] == strategy]
        if any(row[quantity] for row in chosen):
            lines.append((strategy, [(row["devices"], row[quantity]) for row in chosen]))
    return lines


def projection_plots(rows: Sequence[Row]) -> list[Plot]:
    """The same for a page: a figure per system, and one of bytes per step."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    shown = [(system, "projected_samples_per_second", "samples/s, projected") for system in systems]
    shown.append((systems[-1], "traffic_bytes_per_step", "bytes per step, all devices"))
    plots = []
    for system, quantity, axis in shown:
        figure = make_figure("devices", axis)
        for strategy, points in _lines(rows, system, quantity):
            figure.add_scatter(
                x=[count for count, _ in points],
                y=[value for _, value in points],
                name=strategy,
                mode="lines+markers",
                line=line_style(STRATEGIES.index(strategy)) | ({"dash": "dash"} if strategy == "gpipe" else {}),
                hovertemplate="%{x} devices: %{y:.3s}",
            )
        figure.update_xaxes(type="log")
        figure.update_yaxes(type="log", exponentformat="power")
        title = f"Projection, not measured: {axis} · {system}"
        plots.append(Plot(title, f"{rows[0]['network']}. {' '.join(NOTES)}", figure, 400))
    return plots
