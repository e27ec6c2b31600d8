"""Time of a step of M models packed, against the same M one after another, and as torch.func.vmap: table and plot.

    python experiments/claims/packed_step/packed_step.py
    python experiments/claims/packed_step/packed_step.py --repetitions 3 --sizes 2 8 --networks mlp64

Every model has a learning rate and weight decay of its own. The models visit the images in one order, as in a search, or
each in its own. Both sides are partrain's own loops, and vmap is a bare one. The sides take turns in the same process, on
all cores.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure, write_table
from claims.runs import claim_data_settings, make_parser

from partrain.cli.errors import errors_in_one_line
from partrain.data import Dataset, DataSettings, prepare_data
from partrain.launch.allocator import MANY_TRAININGS
from partrain.networks import CNN, MLP, NetworkSettings
from partrain.packs.autotune import make_step, make_throwaway_copies
from partrain.partition.plan import PartitionSettings
from partrain.report.style import COLOURS
from partrain.runs.prepare import prepare_run
from partrain.settings import RunSettings
from partrain.training.optimization import TrainSettings, autocast
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Network:
    """A network of the claim, its batch size, and the speed-ups that are aimed at."""

    label: str
    settings: NetworkSettings
    batch_size: int
    targets: dict[int, float]
    """The speed-up that is aimed at, by the number of models."""


NETWORKS = {
    "mlp64": Network("784-64-64-47", MLP(depth=3, width=64), 32, {2: 1.6, 8: 4.0, 16: 5.0}),
    "mlp128": Network("784-128-128-47", MLP(depth=3, width=128), 128, {2: 1.3, 16: 3.0}),
    "mlp512": Network("784-512-512-47", MLP(depth=3, width=512), 128, {}),
    "cnn": Network("CNN 16-32-32, 64", CNN(channels=[16, 32, 32], strides=[2, 2, 2], hidden=[64]), 64, {}),
}

WITHOUT_VMAP = {("cnn", "bf16")}  # torch.func.vmap refuses batch normalisation under autocast.

StepSeconds = dict[int, dict[str, float]]
"""Seconds of a step of all M models, by M and side (packed, alone or vmap)."""


@dataclass(frozen=True)
class Case:
    """A network, a precision, and whether every model visits the images in an order of its own."""

    network: str
    precision: str
    has_own_orders: bool


def main() -> None:
    """Measure all cases and write the table and the plot."""
    options = make_parser(__doc__, HERE)
    options.add_argument("--repetitions", type=int, default=5, help="a process each")
    options.add_argument("--seconds", type=float, default=0.4, help="of either side in every repetition")
    options.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options.add_argument("--sizes", type=int, nargs="+", default=[2, 8, 16])
    options.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    arguments = options.parse_args()
    # The processes below get the allocator's settings of packs, on which much depends here.
    os.environ.update(MANY_TRAININGS.environment)
    with errors_in_one_line():
        data = claim_data_settings(arguments)
        cases = [Case(*values) for values in product(arguments.networks, arguments.precisions, (False, True))]
        measurements: dict[Case, list[StepSeconds]] = {case: [] for case in cases}
        for turn, case in product(range(arguments.repetitions), cases):
            # Where a process's memory happens to be makes it faster or slower, so every repetition has a new process.
            with get_context("spawn").Pool(1) as process:
                seconds = process.apply(measure, (case, arguments.sizes, data, arguments.seconds, turn))
            measurements[case].append(seconds)
            print(turn, case, seconds, flush=True)
        rows = [row(case, size, measurements[case]) for case in cases for size in arguments.sizes]
        note = (
            f"{arguments.repetitions} repetitions, each in a process of its own; medians; ratios are taken within a "
            "repetition, then their median. torch.func.vmap refuses batch normalisation under autocast."
        )
        write_table(arguments.out, rows, [note], prepare_data(data))
        plot(rows, arguments.out / "plot.png")


# ---- One measurement.


def measure(case: Case, sizes: Sequence[int], data: DataSettings, min_seconds: float, turn: int) -> StepSeconds:
    """Return the seconds of a step for each number of models in `sizes`. Call it in a process of its own.

    One after another, a model has the caches to itself for a whole training. One model alone is therefore stepped,
    another in every turn, and its step counted M times.

    Args:
        case: The network, precision and data order.
        sizes: The numbers M of models.
        data: The training images.
        min_seconds: The least time that each side is measured for.
        turn: The number of the repetition. Sides are measured in reverse order in every second one.
    """
    dataset, step_seconds = prepare_data(data), {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            tasks = make_tasks(case, size, dataset)
            copies = Path(folder) / str(size)
            sides = {
                "packed": make_step(make_throwaway_copies(tasks, copies / "packed")),
                "alone": make_step(make_throwaway_copies([tasks[turn % size]], copies / "alone")),
            }
            if (case.network, case.precision) not in WITHOUT_VMAP:
                sides["vmap"] = make_vmap_step(make_throwaway_copies(tasks, copies / "vmap"))
            order = reversed(sides) if turn % 2 else iter(sides)
            seconds = {side: time_step(sides[side], min_seconds) for side in order}
            step_seconds[size] = seconds | {"alone": size * seconds["alone"]}
    return step_seconds


def make_tasks(case: Case, count: int, dataset: Dataset) -> list[SegmentTask]:
    """Return the tasks of `count` trainings, no two with the same learning rate or weight decay."""
    network = NETWORKS[case.network]
    tasks = []
    for number in range(count):
        train = TrainSettings(
            batch_size=network.batch_size,
            precision=case.precision,
            lr=1e-3 * 1.05**number,
            weight_decay=0.01 * (1 + number),
        )
        settings = RunSettings(
            network=network.settings,
            partition=PartitionSettings(segments=1),
            train=train,
            seed=number if case.has_own_orders else 0,
        )
        tasks.append(prepare_run(settings, Path(), dataset).tasks["segments/0"])
    return tasks


def make_vmap_step(trainings: Sequence[SegmentTraining]) -> Callable[[], None]:
    """Return a function that does a step of all trainings by torch.func's transforms, with PyTorch's fused optimiser.

    It has one learning rate for all, which is a little less work than a rate for each.
    """
    model, precision, device = trainings[0].model, trainings[0].precision, trainings[0].device
    parameters = [dict(training.model.named_parameters()) for training in trainings]
    buffers = [dict(training.model.named_buffers()) for training in trainings]
    stacked_parameters = {name: value.requires_grad_() for name, value in stack_by_name(parameters).items()}
    stacked_buffers = stack_by_name(buffers)
    optimizer = torch.optim.AdamW(list(stacked_parameters.values()), lr=1e-3, fused=True)

    def loss(weights: dict[str, Tensor], state: dict[str, Tensor], features: Tensor, targets: Tensor) -> Tensor:
        with autocast(precision, device):
            output = functional_call(model, (weights, state), (features,))
        return F.cross_entropy(output.float(), targets)

    compute_gradients = vmap(grad_and_value(loss), randomness="different")
    iterators = [training.steps() for training in trainings]

    def step() -> None:
        samples = [training.input.sample(next(it).batch) for training, it in zip(trainings, iterators, strict=True)]
        features, targets = (torch.stack(part) for part in zip(*samples, strict=True))
        detached = {name: value.detach() for name, value in stacked_parameters.items()}
        gradients, _ = compute_gradients(detached, stacked_buffers, features, targets)
        for name, value in stacked_parameters.items():
            value.grad = gradients[name]
        optimizer.step()

    return step


def stack_by_name(models: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return the tensors of M models, which have the same names, stacked to [M, *shape] by name."""
    return {name: torch.stack([tensors[name].detach() for tensors in models]) for name in models[0]}


def time_step(step: Callable[[], None], min_seconds: float) -> float:
    """Return the median seconds of as many steps as take `min_seconds`, after two that warm up."""
    step()
    step()
    seconds: list[float] = []
    while sum(seconds) < min_seconds or len(seconds) < 3:
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


# ---- The table.


def row(case: Case, size: int, runs: Sequence[StepSeconds]) -> dict[str, Any]:
    """Return the row of a case and a number of models. Ratios are taken within a repetition, then their median."""
    network = NETWORKS[case.network]
    seconds = {side: [run[size][side] for run in runs] for side in runs[0][size]}
    speedups = ratios(seconds["alone"], seconds["packed"])
    target = None if case.has_own_orders else network.targets.get(size)
    return {
        "network": network.label,
        "batch": network.batch_size,
        "precision": case.precision,
        "data order": "own" if case.has_own_orders else "shared",
        "M": size,
        "one after another, ms": three_digits(1000 * median(seconds["alone"])),
        "packed, ms": three_digits(1000 * median(seconds["packed"])),
        "packed is × faster": three_digits(median(speedups)),
        "least": three_digits(min(speedups)),
        "most": three_digits(max(speedups)),
        "vmap is × faster": vmap_speedup(seconds),
        "target": target,
        "met": verdict(median(speedups), target),
    }


def vmap_speedup(seconds: dict[str, list[float]]) -> float | None:
    """Return how many times as fast vmap is as one model after another, or None where it does not work."""
    if "vmap" not in seconds:
        return None
    return three_digits(median(ratios(seconds["alone"], seconds["vmap"])))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each repetition."""
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]


def verdict(speedup: float, target: float | None) -> str:
    """Return whether a speed-up meets its target, in words, or nothing without a target."""
    if target is None:
        return ""
    return "yes" if speedup >= target else "NO"


def three_digits(value: float) -> float:
    """Return a number rounded to three significant digits."""
    return float(f"{value:.3g}")


# ---- The plot.


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot speed-ups against the number of models to `path`, a panel for each network."""
    networks = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    figure = Figure(figsize=(3.4 * len(networks), 3.6))
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, (network, batch) in zip(panels, networks, strict=True):
        plot_network(axes, [row for row in rows if (row["network"], row["batch"]) == (network, batch)])
        axes.set(title=f"{network}, batch {batch}", xlabel="models M", ylabel="× as fast as one after another")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=len(labels), fontsize=8)
    save_figure(figure, path)


def plot_network(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Plot the speed-ups of one network, a colour for each precision."""
    for colour, precision in zip(COLOURS, dict.fromkeys(row["precision"] for row in rows), strict=False):
        of_precision = [row for row in rows if row["precision"] == precision]
        shared = [row for row in of_precision if row["data order"] == "shared"]
        own = [row for row in of_precision if row["data order"] == "own"]
        label = f"packed, {precision}"
        plot_column(axes, shared, "packed is × faster", style="o-", color=colour, label=label)
        own_label = f"{label}, data orders of their own"
        plot_column(axes, own, "packed is × faster", style="o--", color=colour, markersize=3, label=own_label)
        plot_column(axes, shared, "vmap is × faster", style="x:", color=colour, label=f"vmap, {precision}")
    targets = {row["M"]: row["target"] for row in rows if row["target"]}
    axes.plot(list(targets), list(targets.values()), "_", color="black", markersize=14, label="aimed at")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    sizes = sorted({row["M"] for row in rows})
    axes.set_xticks(sizes, [str(size) for size in sizes])


def plot_column(axes: Axes, rows: list[dict[str, Any]], column: str, *, style: str, **options: Any) -> None:
    """Plot a column of the table against the number of models."""
    axes.plot([row["M"] for row in rows], [row[column] for row in rows], style, **options)


if __name__ == "__main__":
    main()
