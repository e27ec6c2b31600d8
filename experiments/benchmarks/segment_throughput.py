"""Samples per second of a segment in partrain's own loop over those of a bare PyTorch loop.

Both sides train the same three layers, the left or the right half of the 6-layer network. They use the same batches,
precision, optimiser (fused AdamW) and loss, on one thread, in turn in one process. Segment 0 gathers and normalises
uint8 images; segment 1 draws mixtures of codes.

The bare loop has nothing else: no schedule, no metrics, no checks, no seeds. partrain's loop has all of these. Writing
its checkpoints does not count as training, so the seconds of one are given apart, with the ratio at one checkpoint per
epoch of the data set.

    python experiments/benchmarks/segment_throughput.py
    python experiments/benchmarks/segment_throughput.py --widths 512 --batches 64 --repetitions 3 --seconds 1
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import Report, machine_facts, make_parser, measure_in_turn, median_ratio, seconds_of
from torch import Tensor, nn

from partrain.boundaries.boundary import SyntheticBoundary
from partrain.data import Dataset, prepare_data
from partrain.data.settings import Glyphs
from partrain.networks import MLP
from partrain.partition.plan import make_plan
from partrain.runs.tasks import make_tasks
from partrain.settings import RunSettings
from partrain.training.context import LocalContext
from partrain.training.meters import PeakMemory
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining

WARM_UP = 0.3  # seconds that either loop trains before it is timed


@dataclass(frozen=True)
class Case:
    """A training to compare in both loops: a segment of a network, batch size and precision."""

    width: int
    batch: int
    precision: str
    index: int


@dataclass(frozen=True)
class Measurement:
    """The results of one case: samples per second of each side by repetition, and the seconds of one checkpoint."""

    rates: dict[str, list[float]]
    checkpoint_seconds: float


def main() -> None:
    """Measure all cases, and write the report."""
    options = parse_options()
    torch.set_num_threads(1)
    machine, rows, raw = machine_facts(), [], []
    dataset = prepare_data(Glyphs())
    for values in itertools.product(options.widths, options.batches, options.precisions, (0, 1)):
        case = Case(*values)
        measured = measure_case(case, dataset, options)
        rows.append(make_row(case, measured, len(dataset.train)))
        raw.append({"case": list(values), **measured.rates})
        print(rows[-1], flush=True)
    lowest = min(float(row["ratio"]) for row in rows)
    notes = [f"Lowest ratio {lowest:.3f}; the aim is 0.95 or more. An epoch is {len(dataset.train):,} samples."]
    title = "A segment against a bare PyTorch loop, one thread"
    Report(name="segment_throughput", title=title, rows=rows, machine=machine, notes=notes, raw=raw).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=7)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--seconds", type=float, default=3.0, help="how long either loop trains in each repetition")
    return parser.parse_args()


def measure_case(case: Case, dataset: Dataset, options: argparse.Namespace) -> Measurement:
    """Train the case in both loops, in turn."""
    train = TrainSettings(
        epochs=1000, batch_size=case.batch, precision=case.precision, early_stop=0, checkpoint_seconds=1e9
    )
    settings = RunSettings(network=MLP(width=case.width), train=train)
    with tempfile.TemporaryDirectory() as folder:
        training = make_training(settings, case.index, dataset, Path(folder))
        bare = BareLoop(training, dataset, case.width)
        sides = {
            "partrain": partial(partrain_rate, training, options.seconds),
            "bare": partial(bare.rate, options.seconds),
        }
        partrain_rate(training, WARM_UP)
        bare.rate(WARM_UP)
        rates = measure_in_turn(sides, options.repetitions)
        saving = statistics.median(seconds_of(training.write_checkpoint) for _ in range(3))
    return Measurement(rates, saving)


def make_row(case: Case, measured: Measurement, num_images: int) -> dict[str, Any]:
    """Return the table's row for a case, with epochs of `num_images` samples."""
    ours, theirs = measured.rates["partrain"], measured.rates["bare"]
    epoch, saving = num_images / statistics.median(ours), measured.checkpoint_seconds
    return {
        "segment": case.index,
        "width": case.width,
        "batch": case.batch,
        "precision": case.precision,
        "partrain, samples/s": statistics.median(ours),
        "bare, samples/s": statistics.median(theirs),
        "ratio": median_ratio(ours, theirs),
        "checkpoint, s": saving,
        "ratio with a checkpoint per epoch": median_ratio(ours, theirs) * epoch / (epoch + saving),
    }


# ---- partrain's loop.


class Deadline(LocalContext):
    """A context that lets training run for some seconds at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def poll(self) -> None:
        """Request a stop once the time is over."""
        if time.perf_counter() > self.at:
            self.request_stop()

    def allow(self, seconds: float) -> None:
        """Let training run for `seconds` from now on."""
        self.at, self._should_stop = time.perf_counter() + seconds, False


def make_training(settings: RunSettings, index: int, dataset: Dataset, folder: Path) -> SegmentTraining:
    """Return the training of segment `index` of the two that the settings describe, in `folder`."""
    plan = make_plan(settings.network, (1, 28, 28), dataset.num_classes, settings.partition, settings.train.batch_size)
    make_tasks(settings, plan, dataset, "cpu")[f"segments/{index}"].write(folder)
    return SegmentTraining(folder, Deadline(), PeakMemory())


def partrain_rate(training: SegmentTraining, seconds: float) -> float:
    """Train for about `seconds`, and return samples per second by the clock that results.json is written from."""
    assert isinstance(training.context, Deadline)
    step, clock = training.progress.step, training.progress.seconds
    training.context.allow(seconds)
    training.run()
    return (training.progress.step - step) * training.order.batch_size / (training.progress.seconds - clock)


# ---- The bare loop.


class BareLoop:
    """A loop as one would write it by hand for the same layers, batches and loss as `training`."""

    def __init__(self, training: SegmentTraining, dataset: Dataset, width: int) -> None:
        is_first = training.task.index == 0
        self.network = _build_half(width, dataset.num_classes, is_first=is_first)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)
        self.batch_size, self.is_bf16 = training.order.batch_size, training.precision == "bf16"
        self.images, self.labels = dataset.train.images, dataset.train.labels
        self.mean, self.std = dataset.mean, dataset.std
        boundary = training.output if is_first else training.input
        assert isinstance(boundary, SyntheticBoundary)
        self.codes, self.pseudo_inverse = boundary.codes, boundary.pseudo_inverse
        self.max_score_std = 2 * boundary.noise
        self.sample = self.gather_images if is_first else self.draw_mixtures
        self.loss: Callable[[Tensor, Tensor], Tensor] = self.code_loss if is_first else F.cross_entropy

    def gather_images(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images and their labels [batch]."""
        images = self.images.index_select(0, indices).float().sub_(255 * self.mean).mul_(1 / (255 * self.std))
        return images, self.labels.index_select(0, indices)

    def draw_mixtures(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixtures of codes [batch, size] and their soft labels [batch, classes]."""
        scores = self.max_score_std * torch.rand(len(indices), 1) * torch.randn(len(indices), len(self.codes))
        return scores @ self.pseudo_inverse.T, scores.softmax(dim=1)

    def code_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of the output's similarities to the codes."""
        return F.cross_entropy(output.float() @ self.codes.T, labels)

    def rate(self, seconds: float) -> float:
        """Train for about `seconds`, and return samples per second."""
        started, steps = time.perf_counter(), 0
        while True:
            for indices in torch.randperm(len(self.labels)).split(self.batch_size):
                inputs, targets = self.sample(indices)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bf16):
                    output = self.network(inputs)
                loss = self.loss(output.float(), targets)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                steps += 1
                if steps % 16 == 0 and (elapsed := time.perf_counter() - started) > seconds:
                    return steps * self.batch_size / elapsed


def _build_half(width: int, num_classes: int, *, is_first: bool) -> nn.Sequential:
    """Return the first or the second three layers of the 6-layer network."""
    widths = (784, width, width, width) if is_first else (width, width, width, num_classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*(layers if is_first else layers[:-1]))


if __name__ == "__main__":
    main()
