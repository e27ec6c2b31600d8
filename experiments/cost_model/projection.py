"""Projections, not measurements: the cost model's predictions for more devices, and other devices, than were measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cost_model.cost_model import CostModel, StepTime
from cost_model.step_counts import Constants
from cost_model.workload import ComparisonSetup, Stage, System, Workload, join_stages, make_stages, traffic_bytes
from partrain.comparison.grid import COMPARED_STRATEGIES, SEQUENTIAL
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.report.plotly_figures import Plot, line_style, make_figure
from partrain.report.style import COLOURS
from partrain.storage.checkpoint import write_atomic
from partrain.strategies.settings import PIPELINES, REPLICAS

Row = dict[str, Any]
"""A row of the projection's table."""

TITLE = "Projections of the cost model, not measurements"
HERE = "cores and links like this machine's"
STRATEGIES = tuple(name for name in COMPARED_STRATEGIES if name not in (SEQUENTIAL, "end_to_end"))
DEVICES = (2, 4, 8, 10, 20, 40, 100, 200, 500, 1000)
_PANELS_PER_ROW = 3


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link between two devices."""

    name: str
    latency: float
    """Seconds from sending a message until it is received, software included."""
    bandwidth: float
    """Bytes per second in each direction."""


# Bandwidths are nominal, latencies are assumed.
LINKS = (
    Link(name="10 Gb/s Ethernet", latency=50e-6, bandwidth=1.25e9),
    Link(name="100 Gb/s Ethernet", latency=20e-6, bandwidth=12.5e9),
    Link(name="PCIe 4.0 x16", latency=15e-6, bandwidth=25e9),
    Link(name="NVLink 4", latency=10e-6, bandwidth=450e9),
)

# Assumed, not measured: 300 TFLOP/s in bf16 and 2.5 TB/s of memory. Through memory pass weights of 2 bytes, activations,
# which are written once and read twice, and 28 bytes per parameter for the optimiser. Kernels are started one by one.
# The constants of the links are filled in by `_gpu_system`.
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
    "Every process has a device. This machine's cores and links: constants fitted to measured cells, as if every core "
    "had links like this machine's loopback. GPUs: assumed constants (300 TFLOP/s bf16, 2.5 TB/s of memory, 60 µs per "
    "layer, nominal bandwidths, assumed latencies). Their bytes move while kernels compute, and the latency of their "
    "collective operations grows with the logarithm of the number of devices.",
    "Strong scaling: the batch is the same for any number of devices. Replicas share it, and would lose less to traffic "
    "with a larger one. Pipelines have the number of microbatches that the model predicts to be best. In the model, "
    "gpipe and 1f1b differ only in that 1f1b needs at least as many microbatches as stages.",
    "Memory is not modelled: replicas, weights or activations may not fit on a device.",
    "The accuracy that synthetic labels cost beyond K = 6 segments is unknown. Samples per second do not show it, nor "
    "how many epochs each strategy needs.",
)


@dataclass(frozen=True, kw_only=True)
class DeepNetwork:
    """The network that is projected: fully connected, with `depth` layers, at least 3, of `width` units."""

    depth: int = 1000
    width: int = 2048
    batch_size: int = 4000

    @property
    def name(self) -> str:
        """Return the network's name in tables and titles."""
        return f"mlp, {self.depth:,} layers {self.width:,} wide"

    def layers(self, setup: ComparisonSetup) -> list[Stage]:
        """Return a stage for each layer. All inner layers are alike, so a plan of three layers gives their costs."""
        small = MLP(depth=3, width=self.width)
        first, inner, last = make_stages(small, setup.input_shape, setup.num_classes, PartitionSettings(segments=3))
        return [first, *[inner] * (self.depth - 2), last]


@dataclass(frozen=True, kw_only=True)
class _ProjectedSystem:
    """A system with a name, and the cost model that predicts its steps."""

    name: str
    model: CostModel
    system: System

    def step_time(self, workload: Workload) -> StepTime:
        """Return the predicted time of a step of `workload`."""
        return self.model.step_time(workload, self.system)


def project(
    model: CostModel,
    network: DeepNetwork | None = None,
    devices: Sequence[int] = DEVICES,
) -> list[Row]:
    """Return a row for each system, strategy and number of devices, and one for end to end on one device.

    Numbers of devices that a strategy cannot use are left out: more stages than layers, and numbers of replicas that do
    not divide the batch. `NOTES` states what is assumed.

    Args:
        model: The cost model fitted on this machine.
        network: The network, by default 1,000 layers of 2,048 units.
        devices: The numbers of devices.
    """
    network = network or DeepNetwork()
    layers = network.layers(model.setup)
    systems = [_ProjectedSystem(name=HERE, model=model, system=System(cores=None))]
    systems += [_gpu_system(model, link) for link in LINKS]

    rows = []
    for system in systems:
        for strategy, count in [("end_to_end", 1), *product(STRATEGIES, devices)]:
            workloads = _workloads(strategy, count, layers, network.batch_size, model.setup)
            if workloads:
                rows.append({"network": network.name} | _fastest(system, workloads))
    return rows


def _gpu_system(model: CostModel, link: Link) -> _ProjectedSystem:
    constants = replace(
        GPU,
        message=link.latency,
        round=link.latency,
        byte=1 / link.bandwidth,
        collective_byte=1 / link.bandwidth,
    )
    return _ProjectedSystem(
        name=f"GPUs, {link.name}",
        model=replace(model, constants=constants, unfitted=frozenset()),
        system=System(cores=None, nccl=True),
    )


def _workloads(
    strategy: str, devices: int, layers: Sequence[Stage], batch_size: int, setup: ComparisonSetup
) -> list[Workload]:
    """Return the workload of `strategy` on so many devices for every number of microbatches to try, none if unusable."""
    is_whole = strategy in REPLICAS or strategy == "end_to_end"
    cannot_use = batch_size % devices if is_whole else devices > len(layers)
    if cannot_use:
        return []
    num_stages = 1 if is_whole else devices
    ends = [round(len(layers) * number / num_stages) for number in range(1, num_stages + 1)]
    workload = Workload(
        strategy=strategy,
        stages=tuple(join_stages(layers[start:end]) for start, end in pairwise([0, *ends])),
        processes=devices,
        batch_size=batch_size,
        microbatches=1,
        num_classes=setup.num_classes,
        feature_bytes=setup.feature_bytes,
    )
    if strategy not in PIPELINES:
        return [workload]
    tried = [number for number in _spaced_divisors(batch_size) if strategy == "gpipe" or number >= devices]
    return [replace(workload, microbatches=number) for number in tried]


def _spaced_divisors(number: int) -> list[int]:
    """Return divisors of `number`, each at least 1.5 times the one before, which is near enough to the best."""
    divisors = [1]
    for divisor in range(2, number + 1):
        if number % divisor == 0 and divisor >= 1.5 * divisors[-1]:
            divisors.append(divisor)
    return divisors


def _fastest(system: _ProjectedSystem, workloads: Sequence[Workload]) -> Row:
    """Return the row of the workload whose step is predicted to be the fastest."""
    steps = [system.step_time(workload) for workload in workloads]
    step, workload = min(zip(steps, workloads, strict=True), key=lambda pair: pair[0].seconds)
    return {
        "system": system.name,
        "strategy": workload.strategy,
        "devices": workload.processes,
        "batch_size": workload.batch_size,
        "microbatches": workload.microbatches if workload.strategy in PIPELINES else None,
        "projected_step_seconds": step.seconds,
        "projected_samples_per_second": workload.batch_size / step.seconds,
        "compute_seconds": step.compute,
        "communication_seconds": step.communication,
        "bubble_seconds": step.bubble,
        "traffic_bytes_per_step": traffic_bytes(workload, system.system),
    }


def plot_projection(rows: Sequence[Row], path: Path) -> None:
    """Draw samples per second against devices, a panel for each system, and bytes per step, as a PNG at `path`."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    panel_rows = math.ceil((len(systems) + 1) / _PANELS_PER_ROW)
    figure = Figure(figsize=(15, 4.2 * panel_rows))
    panels = figure.subplots(panel_rows, _PANELS_PER_ROW, squeeze=False).flatten()

    for axes, system in zip(panels, systems, strict=False):
        _draw_panel(axes, rows, system, "projected_samples_per_second")
        axes.set(title=f"projected: {system}", ylabel="samples/s, projected")
    traffic = panels[len(systems)]
    _draw_panel(traffic, rows, systems[-1], "traffic_bytes_per_step")
    traffic.set(title="projected: bytes per step of all devices; synthetic sends none", ylabel="bytes per step")
    panels[0].legend(fontsize=8)
    for axes in panels[len(systems) + 1 :]:
        axes.set_visible(False)

    figure.suptitle(f"{TITLE}: {rows[0]['network']}, batch of {rows[0]['batch_size']:,} on any number of devices")
    figure.text(0.01, -0.01, "\n".join(NOTES), fontsize=7, va="top", wrap=True)
    figure.tight_layout()
    write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


def _draw_panel(axes: Axes, rows: Sequence[Row], system: str, quantity: str) -> None:
    for strategy, points in _lines(rows, system, quantity):
        colour, dash = COLOURS[STRATEGIES.index(strategy)], "--" if strategy == "gpipe" else "-"
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker="o", markersize=3, label=strategy)
    axes.set(xscale="log", yscale="log", xlabel="devices")
    axes.grid(alpha=0.3)


def _lines(rows: Sequence[Row], system: str, quantity: str) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return the points of each strategy: numbers of devices, and the `quantity` there.

    Strategies for which it is always 0 are left out, as a logarithmic axis has no 0.
    """
    lines = []
    for strategy in STRATEGIES:
        chosen = [row for row in rows if row["system"] == system and row["strategy"] == strategy]
        if any(row[quantity] for row in chosen):
            lines.append((strategy, [(row["devices"], row[quantity]) for row in chosen]))
    return lines


def projection_plots(rows: Sequence[Row]) -> list[Plot]:
    """Return the same as figures of a page: samples per second of each system, and bytes per step."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    plots = [_page_plot(rows, system, "projected_samples_per_second", "samples/s, projected") for system in systems]
    plots.append(_page_plot(rows, systems[-1], "traffic_bytes_per_step", "bytes per step, all devices"))
    return plots


def _page_plot(rows: Sequence[Row], system: str, quantity: str, axis: str) -> Plot:
    figure = make_figure("devices", axis)
    for strategy, points in _lines(rows, system, quantity):
        dash = {"dash": "dash"} if strategy == "gpipe" else {}
        figure.add_scatter(
            x=[count for count, _ in points],
            y=[value for _, value in points],
            name=strategy,
            mode="lines+markers",
            line=line_style(STRATEGIES.index(strategy)) | dash,
            hovertemplate="%{x} devices: %{y:.3s}",
        )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", exponentformat="power")
    title = f"Projection, not measured: {axis} · {system}"
    return Plot(title, f"{rows[0]['network']}. {' '.join(NOTES)}", figure, 400)
