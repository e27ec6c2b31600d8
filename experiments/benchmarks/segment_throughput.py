"""A segment's samples per second in partrain's own loop against a bare PyTorch loop.

Both sides train the same three layers (the left or the right half of the 6-layer network) with the same batches,
precision, optimiser (fused AdamW) and loss, on one thread, in turn in one process. Segment 0 gathers and normalises
uint8 images, segment 1 draws mixtures of codes. The bare loop has nothing else: no schedule, no metrics, no checks, no
seeds. partrain's loop has all of that; its checkpoint is written between the clock's laps, so the time of one is given
apart, and the ratio with one per epoch of the data set.

    python experiments/benchmarks/segment_throughput.py
    python experiments/benchmarks/segment_throughput.py --widths 512 --batches 64 --repetitions 3 --seconds 1
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import alternating, machine, parser, ratio, write
from torch import Tensor, nn

from partrain.boundaries.boundary import SyntheticBoundary
from partrain.data import Dataset, DataSettings, prepare_data
from partrain.networks import MLPSettings
from partrain.partition.plan import make_plan
from partrain.runs.tasks import make_tasks
from partrain.settings import RunSettings
from partrain.training.context import TrainingContext
from partrain.training.meters import PeakMemory
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining

PREPARATION = 0.3  # seconds of either loop before it is timed


class Deadline(TrainingContext):
    """Lets training run for some seconds at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.at = 0.0

    def poll(self) -> None:
        if time.perf_counter() > self.at:
            self.request_stop()

    def allow(self, seconds: float) -> None:
        self.at, self._should_stop = time.perf_counter() + seconds, False


def make_training(settings: RunSettings, index: int, dataset: Dataset, folder: Path) -> SegmentTraining:
    """Segment `index` of the two that the settings describe, ready to train in `folder`."""
    plan = make_plan(settings.network, (1, 28, 28), dataset.num_classes, settings.partition, settings.train.batch_size)
    make_tasks(settings, plan, dataset)[f"segments/{index}"].write(folder)
    return SegmentTraining(folder, Deadline(folder), PeakMemory())


def partrain_rate(training: SegmentTraining, seconds: float) -> float:
    """Samples per second over about `seconds`, by the clock that results.json is written from."""
    assert isinstance(training.context, Deadline)
    step, clock = training.progress.step, training.progress.seconds
    training.context.allow(seconds)
    training.run()
    return (training.progress.step - step) * training.order.batch_size / (training.progress.seconds - clock)


class BareLoop:
    """What one would write by hand for the same layers."""

    def __init__(self, training: SegmentTraining, dataset: Dataset, width: int) -> None:
        first = training.task.index == 0
        ends = (784, width, width, width) if first else (width, width, width, dataset.num_classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(ends):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.network = nn.Sequential(*(layers if first else layers[:-1]))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)
        self.batch_size, self.bf16 = training.order.batch_size, training.precision == "bf16"
        self.images, self.labels, self.mean, self.std = (
            dataset.train.images,
            dataset.train.labels,
            dataset.mean,
            dataset.std,
        )
        boundary = training.output if first else training.input
        assert isinstance(boundary, SyntheticBoundary)
        self.codes, self.inverse, self.spread = boundary.codes, boundary.pseudo_inverse, 2 * boundary.noise
        self.features = self.gather if first else self.mixtures
        self.loss: Callable[[Tensor, Tensor], Tensor] = self.similarity if first else F.cross_entropy

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images = self.images.index_select(0, indices).float().sub_(255 * self.mean).mul_(1 / (255 * self.std))
        return images, self.labels.index_select(0, indices)

    def mixtures(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.spread * torch.rand(len(indices), 1) * torch.randn(len(indices), len(self.codes))
        return scores @ self.inverse.T, scores.softmax(dim=1)

    def similarity(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output.float() @ self.codes.T, labels)

    def rate(self, seconds: float) -> float:
        """Samples per second over about `seconds`."""
        started, steps = time.perf_counter(), 0
        while True:
            for indices in torch.randperm(len(self.labels)).split(self.batch_size):
                features, targets = self.features(indices)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    output = self.network(features)
                loss = self.loss(output.float(), targets)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                steps += 1
                if steps % 16 == 0 and (passed := time.perf_counter() - started) > seconds:
                    return steps * self.batch_size / passed


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    options = parser(__doc__, repetitions=7)
    options.add_argument("--widths", type=int, nargs="+", default=[512, 2048])
    options.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    options.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    options.add_argument("--seconds", type=float, default=3.0, help="of either loop in every repetition")
    given = options.parse_args()
    torch.set_num_threads(1)
    about, rows, raw = machine(), [], []
    dataset = prepare_data(DataSettings())
    cases = [(w, b, p, s) for w in given.widths for b in given.batches for p in given.precisions for s in (0, 1)]
    for width, batch, precision, index in cases:
        train = TrainSettings(epochs=1000, batch_size=batch, precision=precision, early_stop=0, checkpoint_seconds=1e9)
        with tempfile.TemporaryDirectory() as folder:
            training = make_training(
                RunSettings(network=MLPSettings(width=width), train=train), index, dataset, Path(folder)
            )
            bare = BareLoop(training, dataset, width)
            sides = {
                "partrain": partial(partrain_rate, training, given.seconds),
                "bare": partial(bare.rate, given.seconds),
            }
            partrain_rate(training, PREPARATION)
            bare.rate(PREPARATION)
            measured = alternating(sides, given.repetitions)
            saving = statistics.median(timed(training.write_checkpoint) for _ in range(3))
        ours, theirs = measured["partrain"], measured["bare"]
        epoch = len(dataset.train) / statistics.median(ours)
        rows.append(
            {
                "segment": index,
                "width": width,
                "batch": batch,
                "precision": precision,
                "partrain, samples/s": statistics.median(ours),
                "bare, samples/s": statistics.median(theirs),
                "ratio": ratio(ours, theirs),
                "checkpoint, s": saving,
                "ratio with a checkpoint per epoch": ratio(ours, theirs) * epoch / (epoch + saving),
            }
        )
        raw.append({"case": [width, batch, precision, index], **measured})
        print(rows[-1], flush=True)
    lowest = min(float(str(row["ratio"])) for row in rows)
    notes = [f"Lowest ratio {lowest:.3f}; the aim is 0.95 or more. An epoch is {len(dataset.train):,} samples."]
    write(given.out, "segment_throughput", "A segment against a bare PyTorch loop, one thread", rows, about, notes, raw)


if __name__ == "__main__":
    main()
