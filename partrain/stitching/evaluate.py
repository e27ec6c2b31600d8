"""Evaluation of a stitched network: accuracy, confusions, and what every boundary decodes to."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from partrain.boundaries.boundary import ClassBoundary, OutputBoundary, SyntheticBoundary
from partrain.boundaries.labels import LabelSettings
from partrain.console import ProgressDisplay
from partrain.data import Dataset
from partrain.data.batches import DeviceImages
from partrain.errors import UserError
from partrain.networks import Chain
from partrain.stitching.stitch import ModelCard, load_recorded, read_card
from partrain.storage import checkpoint

_BATCH = 2000
_EXAMPLES = 6  # test images named of each confused pair


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """On a data set's test images. Accuracies are fractions; `boundaries[i]` is decoded at boundary i + 1.

    `confusion` [classes, classes]: how many images of the row's class were taken for the column's. `outcomes` [images]:
    where in `confusion`, flattened, each image is counted.
    """

    data: dict[str, Any]
    classes: list[str]
    top1: float
    top5: float
    boundaries: list[float]
    confusion: Tensor
    outcomes: Tensor

    def per_class(self) -> dict[str, float]:
        """Accuracy by class name; classes without images are left out."""
        counts = self.confusion.sum(dim=1)
        right = self.confusion.diag()
        rows = zip(self.classes, right.tolist(), counts.tolist(), strict=True)
        return {name: r / n for name, r, n in rows if n}

    def most_confused(self, count: int = 10) -> list[dict[str, Any]]:
        """The `count` most frequent mistakes: class, what it was taken for, how often, the first such test images."""
        mistakes = self.confusion - self.confusion.diag().diag()
        worst = mistakes.flatten().topk(min(count, mistakes.numel()))
        size = len(self.classes)
        return [
            {
                "class": self.classes[place // size],
                "taken_for": self.classes[place % size],
                "images": images,
                "examples": (self.outcomes == place).nonzero().flatten()[:_EXAMPLES].tolist(),
            }
            for place, images in zip(worst.indices.tolist(), worst.values.tolist(), strict=True)
            if images
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "top1": self.top1,
            "top5": self.top5,
            "boundaries": self.boundaries,
            "per_class": self.per_class(),
            "most_confused": self.most_confused(),
            "classes": self.classes,
            "confusion": self.confusion.tolist(),
        }

    def write(self, path: Path) -> None:
        checkpoint.write_json(path, self.to_json())


def evaluate(run: Path, dataset: Dataset, device: torch.device | str = "cpu", show: bool = True) -> Evaluation:
    """Evaluate the stitched network of `run`, in fp32, on `dataset`'s test images.

    Raises:
        ValueError: `run` has no stitched network, or the data set has other classes.
    """
    device = torch.device(device)
    card = read_card(run)
    if list(dataset.classes) != card.classes:
        raise UserError(
            f"data={dataset.name} has {dataset.num_classes} classes ({''.join(dataset.classes)[:60]}), "
            f"the network of {run} was trained on {len(card.classes)} ({''.join(card.classes)[:60]})"
        )
    segments = _segments(run, card, device)
    images = DeviceImages(dataset, dataset.test, device)
    size, count = len(card.classes), len(dataset.test)
    right, top5 = torch.zeros(len(segments), dtype=torch.long), 0
    outcomes = torch.zeros(count, dtype=torch.long)
    with torch.inference_mode():
        boundaries = _boundaries(segments, images.gather(torch.zeros(1, dtype=torch.long, device=device))[0], card)
        for first in _progress(range(0, count, _BATCH), show):
            values, targets = images.gather(torch.arange(first, min(first + _BATCH, count), device=device))
            scores = _decode(segments, boundaries, values)
            right += torch.stack([(each.argmax(dim=1) == targets).sum() for each in scores]).cpu()
            top5 += int((scores[-1].topk(min(5, size), dim=1).indices == targets[:, None]).sum())
            outcomes[first : first + _BATCH] = targets * size + scores[-1].argmax(dim=1)
    return Evaluation(
        data=dataset.provenance(),
        classes=card.classes,
        top1=right[-1].item() / count,
        top5=top5 / count,
        boundaries=[number / count for number in right.tolist()],
        confusion=torch.bincount(outcomes, minlength=size**2).view(size, size),
        outcomes=outcomes,
    )


def _segments(run: Path, card: ModelCard, device: torch.device) -> list[nn.Module]:
    """The trained segments of `run`, each with the projection that stands before it, if any."""
    chain = Chain(*load_recorded(run, device))
    cuts = {cut.name: cut for cut in chain.cuts}
    edges = [None, *(cuts[name] for name in card.cuts), None]
    projections = card.make_projections(device)
    return [
        nn.Sequential(projections.get(start.name if start else "", nn.Identity()), chain.extract_segment(start, stop))
        for start, stop in itertools.pairwise(edges)
    ]


def _boundaries(segments: list[nn.Module], image: Tensor, card: ModelCard) -> list[OutputBoundary]:
    """The boundaries behind the segments; `image`, a batch of one, shows their shapes."""
    labels = LabelSettings(**card.labels)
    boundaries: list[OutputBoundary] = []
    for index, segment in enumerate(segments[:-1], start=1):
        image = segment(image)
        shape, classes = image.shape[1:], len(card.classes)
        boundaries.append(SyntheticBoundary(index, shape, classes, labels, card.seed, image.device))
    return [*boundaries, ClassBoundary()]


def _decode(segments: list[nn.Module], boundaries: list[OutputBoundary], values: Tensor) -> list[Tensor]:
    """Class scores of a batch at every boundary."""
    scores = []
    for segment, boundary in zip(segments, boundaries, strict=True):
        values = segment(values)
        scores.append(boundary.scores(values.clone()))  # the next segment may change its input in place
    return scores


def _progress(batches: range, show: bool) -> Iterator[int]:
    """The `batches`, with a bar that follows them."""
    with ProgressDisplay(show=show, percentage=True, transient=True) as progress:
        progress.add("batches", "evaluating", total=len(batches))
        for batch in batches:
            yield batch
            progress.advance("batches", 1)
