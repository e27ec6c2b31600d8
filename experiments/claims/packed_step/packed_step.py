"""Time of a step of M models packed, against the same M one after another, and as torch.func.vmap: table and plot.

    python experiments/claims/packed_step/packed_step.py
    python experiments/claims/packed_step/packed_step.py --repetitions 3 --sizes 2 8 --networks mlp64

Every model has a learning rate and weight decay of its own; they visit the images in one order, as in a search, or each in
its own. Both sides are partrain's own loops, vmap is a bare one. Sides take turns, in the same process, on all cores.
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
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # experiments/, for what claims share

from claims.output import save_figure, write_table
from claims.runs import claim_data_settings, make_parser

from partrain.cli.config import clear_errors
from partrain.data import Dataset, DataSettings, prepare_data
from partrain.launch import job
from partrain.networks import CNNSettings, MLPSettings, NetworkSettings
from partrain.packs import planner
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
class Case:
    """A network, its batch size, and the gains that are aimed at, by M."""

    label: str
    network: NetworkSettings
    batch: int
    targets: dict[int, float]


CASES = {
    "mlp64": Case("784-64-64-47", MLPSettings(depth=3, width=64), 32, {2: 1.6, 8: 4.0, 16: 5.0}),
    "mlp128": Case("784-128-128-47", MLPSettings(depth=3, width=128), 128, {2: 1.3, 16: 3.0}),
    "mlp512": Case("784-512-512-47", MLPSettings(depth=3, width=512), 128, {}),
    "cnn": Case("CNN 16-32-32, 64", CNNSettings(channels=[16, 32, 32], strides=[2, 2, 2], hidden=[64]), 64, {}),
}

NO_VMAP = {("cnn", "bf16")}  # torch.func.vmap refuses batch normalisation under autocast


def tasks_of(case: Case, precision: str, count: int, dataset: Dataset, own_order: bool) -> list[SegmentTask]:
    """`count` trainings, no two with the same settings; with `own_order` each visits the images in another order."""
    tasks = []
    for number in range(count):
        train = TrainSettings(
            batch_size=case.batch, precision=precision, lr=1e-3 * 1.05**number, weight_decay=0.01 * (1 + number)
        )
        seed = number if own_order else 0
        settings = RunSettings(network=case.network, partition=PartitionSettings(segments=1), train=train, seed=seed)
        tasks.append(prepare_run(settings, Path(), dataset).tasks["segments/0"])
    return tasks


def as_vmap(trainings: Sequence[SegmentTraining]) -> Callable[[], None]:
    """A step of all by torch.func's transforms, with torch's fused optimiser over the stacked parameters.

    It has one learning rate for all, which is a little less work than a rate for each.
    """
    models = [training.model for training in trainings]
    weights, kept_with = ([state(model) for model in models] for state in (_parameters, _buffers))
    values = {name: torch.stack([own[name] for own in weights]).requires_grad_() for name in weights[0]}
    buffers = {name: torch.stack([own[name] for own in kept_with]) for name in kept_with[0]}
    optimizer = torch.optim.AdamW(list(values.values()), lr=1e-3, fused=True)
    precision, device = trainings[0].precision, trainings[0].device
    model = models[0]

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], features: Tensor, targets: Tensor) -> Tensor:
        with autocast(precision, device):
            output = functional_call(model, (own, kept), (features,))
        return F.cross_entropy(output.float(), targets)

    gradients = vmap(grad_and_value(loss), randomness="different")
    batches = [training.steps() for training in trainings]

    def step() -> None:
        pairs = [training.input.sample(next(each).batch) for training, each in zip(trainings, batches, strict=True)]
        features, targets = (torch.stack(part) for part in zip(*pairs, strict=True))
        found, _ = gradients({name: value.detach() for name, value in values.items()}, buffers, features, targets)
        for name, value in values.items():
            value.grad = found[name]
        optimizer.step()

    return step


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_buffers())


def measure(
    name: str, precision: str, own_order: bool, sizes: Sequence[int], data: DataSettings, seconds: float, turn: int
) -> dict[int, dict[str, float]]:
    """Seconds of a step of all M models, by M in `sizes` and side. To be called in a process of its own.

    One after another a model has the caches to itself for a whole training, so one alone is stepped, another in every
    `turn`, and its step counted M times.
    """
    case, dataset, found = CASES[name], prepare_data(data), {}
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            tasks = tasks_of(case, precision, count, dataset, own_order)
            own = Path(folder) / str(count)
            sides = {
                "packed": make_step(make_throwaway_copies(tasks, own / "packed")),
                "alone": make_step(make_throwaway_copies([tasks[turn % count]], own / "alone")),
            }
            if (name, precision) not in NO_VMAP:
                sides["vmap"] = as_vmap(make_throwaway_copies(tasks, own / "vmap"))
            order = reversed(sides) if turn % 2 else iter(sides)
            found[count] = {side: (count if side == "alone" else 1) * _seconds(sides[side], seconds) for side in order}
    return found


def _seconds(step: Callable[[], None], least: float) -> float:
    """The median of as many steps as take `least` seconds, after two that warm up."""
    step()
    step()
    spent: list[float] = []
    while sum(spent) < least or len(spent) < 3:
        started = time.perf_counter()
        step()
        spent.append(time.perf_counter() - started)
    return median(spent)


def row(
    name: str, precision: str, own_order: bool, count: int, runs: Sequence[dict[int, dict[str, float]]]
) -> dict[str, Any]:
    """The table's row. Ratios are taken within a repetition, then their median."""
    case = CASES[name]
    found = {side: [run[count][side] for run in runs] for side in runs[0][count]}
    gains = [alone / packed for alone, packed in zip(found["alone"], found["packed"], strict=True)]
    gain, target = median(gains), None if own_order else case.targets.get(count)
    vmap_gain = None
    if "vmap" in found:
        vmap_gain = _digits(median(alone / other for alone, other in zip(found["alone"], found["vmap"], strict=True)))
    return {
        "network": case.label,
        "batch": case.batch,
        "precision": precision,
        "data order": "own" if own_order else "shared",
        "M": count,
        "one after another, ms": _digits(1000 * median(found["alone"])),
        "packed, ms": _digits(1000 * median(found["packed"])),
        "packed is × faster": _digits(gain),
        "least": _digits(min(gains)),
        "most": _digits(max(gains)),
        "vmap is × faster": vmap_gain,
        "target": target,
        "met": "" if target is None else "yes" if gain >= target else "NO",
    }


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Gains against M, a panel per network."""
    names = list(dict.fromkeys((each["network"], each["batch"]) for each in rows))
    figure = Figure(figsize=(3.4 * len(names), 3.6))
    for axes, (network, batch) in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        shown = [each for each in rows if (each["network"], each["batch"]) == (network, batch)]
        for colour, precision in zip(COLOURS, dict.fromkeys(each["precision"] for each in shown), strict=False):
            own = [each for each in shown if each["precision"] == precision and each["data order"] == "shared"]
            apart = [each for each in shown if each["precision"] == precision and each["data order"] == "own"]
            sizes = [each["M"] for each in own]
            axes.plot(
                sizes, [each["packed is × faster"] for each in own], "o-", color=colour, label=f"packed, {precision}"
            )
            axes.plot(
                [each["M"] for each in apart],
                [each["packed is × faster"] for each in apart],
                "o--",
                color=colour,
                markersize=3,
                label=f"packed, {precision}, data orders of their own",
            )
            axes.plot(sizes, [each["vmap is × faster"] for each in own], "x:", color=colour, label=f"vmap, {precision}")
        targets = {each["M"]: each["target"] for each in shown if each["target"]}
        axes.plot(list(targets), list(targets.values()), "_", color="black", markersize=14, label="aimed at")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xscale("log", base=2)
        sizes = sorted({each["M"] for each in shown})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(title=f"{network}, batch {batch}", xlabel="models M", ylabel="× as fast as one after another")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=len(labels), fontsize=8)
    save_figure(figure, path)


def main() -> None:
    options = make_parser(__doc__, HERE)
    options.add_argument("--repetitions", type=int, default=5, help="a process each")
    options.add_argument("--seconds", type=float, default=0.4, help="of either side in every repetition")
    options.add_argument("--networks", nargs="+", default=list(CASES), choices=CASES)
    options.add_argument("--sizes", type=int, nargs="+", default=[2, 8, 16])
    options.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    given = options.parse_args()
    # of the processes below: packs have it, and an allocator decides a lot here
    os.environ.update(job.ALLOCATOR | planner.ALLOCATOR)
    with clear_errors():
        data = claim_data_settings(given)
        cases = list(product(given.networks, given.precisions, (False, True)))
        found: dict[Any, list[dict[int, dict[str, float]]]] = {case: [] for case in cases}
        for turn, case in product(range(given.repetitions), cases):
            # where its memory happens to lie makes a process faster or slower, so every repetition has another one
            with get_context("spawn").Pool(1) as process:
                found[case].append(process.apply(measure, (*case, given.sizes, data, given.seconds, turn)))
            print(turn, case, found[case][-1], flush=True)
        rows = [row(*case, count, found[case]) for case in cases for count in given.sizes]
        notes = f"{given.repetitions} repetitions, each in a process of its own; medians; ratios are taken within a "
        notes += "repetition, then their median. torch.func.vmap refuses batch normalisation under autocast."
        write_table(given.out, rows, [notes], prepare_data(data))
        plot(rows, given.out / "plot.png")


if __name__ == "__main__":
    main()
