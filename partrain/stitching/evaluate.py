"""The evaluation of a stitched network: its accuracy, its confusions, and the accuracy that each boundary decodes to."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partrain.boundaries.boundary import ClassBoundary, OutputBoundary, SyntheticBoundary
from partrain.boundaries.labels import LABELS
from partrain.console import ProgressDisplay
from partrain.data import Dataset
from partrain.data.batches import DeviceImages, SelectedImages, validation_images
from partrain.device import has_room
from partrain.errors import UserError
from partrain.networks import Chain
from partrain.stitching.stitch import ModelCard, load_recorded, read_card
from partrain.storage import checkpoint

_BATCH = 2000
_EXAMPLES = 6
"""Test images that are named for each confused pair."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation of a network on a data set's test images, or on those held out. Accuracies are from 0 to 1."""

    data: dict[str, Any]
    """The facts of the data set."""
    classes: list[str]
    top1: float
    top5: float
    loss: float
    """The mean cross-entropy."""
    boundaries: list[float]
    """The decode accuracy at each boundary, from boundary 1 on. The last one is `top1`."""
    confusion: Tensor
    """How many images of the row's class were taken for the column's [classes, classes]."""
    outcomes: Tensor
    """The element of the flattened `confusion` that counts each image [images]."""

    def per_class(self) -> dict[str, float]:
        """Return the accuracy of each class by name, without classes that have no images."""
        counts = self.confusion.sum(dim=1)
        correct = self.confusion.diag()
        rows = zip(self.classes, correct.tolist(), counts.tolist(), strict=True)
        return {name: num_correct / num_images for name, num_correct, num_images in rows if num_images}

    def most_confused(self, count: int = 10) -> list[dict[str, Any]]:
        """Return the `count` most frequent mistakes, with how many images each has and the first of them."""
        mistakes = self.confusion - self.confusion.diag().diag()
        worst = mistakes.flatten().topk(min(count, mistakes.numel()))
        num_classes = len(self.classes)
        return [
            {
                "class": self.classes[element // num_classes],
                "taken_for": self.classes[element % num_classes],
                "images": num_images,
                "examples": (self.outcomes == element).nonzero().flatten()[:_EXAMPLES].tolist(),
            }
            for element, num_images in zip(worst.indices.tolist(), worst.values.tolist(), strict=True)
            if num_images
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain data."""
        return {
            "data": self.data,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "boundaries": self.boundaries,
            "per_class": self.per_class(),
            "most_confused": self.most_confused(),
            "classes": self.classes,
            "confusion": self.confusion.tolist(),
        }

    def write(self, path: Path) -> None:
        """Write the evaluation to `path` as JSON."""
        checkpoint.write_json(path, self.to_json())


def evaluate(
    run: Path,
    dataset: Dataset,
    device: torch.device | str = "cpu",
    *,
    validation: float | None = None,
    show_progress: bool = True,
) -> Evaluation:
    """Evaluate the stitched network of a run, in fp32, on a data set's test images, or on those held out.

    Args:
        run: The run's folder.
        dataset: The data set; its classes must be those that the network was trained on.
        device: The device to evaluate on.
        validation: The fraction of the training images that is held out, to evaluate on these. By default the test
            images are.
        show_progress: Whether to show a progress bar on a terminal.

    Raises:
        UserError: If the run has no stitched network, or the data set has other classes.
    """
    device = torch.device(device)
    card = read_card(run)
    _check_classes(dataset, card, run)
    segments = _load_segments(run, card, device)
    images = _images(dataset, device, validation)
    counts = _Counts(num_boundaries=len(segments), num_classes=len(card.classes), num_images=len(images))

    with torch.inference_mode():
        first_image, _ = images.gather(torch.zeros(1, dtype=torch.long, device=device))
        boundaries = _make_boundaries(segments, first_image, card)
        for first in _with_progress(range(0, len(images), _BATCH), show_progress=show_progress):
            indices = torch.arange(first, min(first + _BATCH, len(images)), device=device)
            values, targets = images.gather(indices)
            counts.add(first, _decode(segments, boundaries, values), targets)
    return counts.evaluation(dataset.provenance(), card.classes)


def evaluation_device(device: str | torch.device, num_parameters: int) -> torch.device:
    """Return the device to evaluate whole networks on: `device`, or the CPU if its memory is too full.

    Args:
        device: The device.
        num_parameters: The number of parameters of all networks that are on it at once. Twice the bytes that they take
            in fp32 must be free.
    """
    device = torch.device(device)
    return device if has_room(device, 2 * 4 * num_parameters) else torch.device("cpu")


def _images(dataset: Dataset, device: torch.device, validation: float | None) -> DeviceImages | SelectedImages:
    """Return the images to evaluate on."""
    if validation is None:
        return DeviceImages(dataset, dataset.test, device)
    return validation_images(dataset, device, validation)


class _Counts:
    """The counts over batches of test images that an evaluation is made of."""

    def __init__(self, *, num_boundaries: int, num_classes: int, num_images: int) -> None:
        self.num_classes, self.num_images = num_classes, num_images
        self.correct = torch.zeros(num_boundaries, dtype=torch.long)
        self.top5 = 0
        self.loss = 0.0
        self.outcomes = torch.zeros(num_images, dtype=torch.long)

    def add(self, first: int, scores: Sequence[Tensor], targets: Tensor) -> None:
        """Count a batch, from image number `first` on, by its scores [batch, classes] at every boundary."""
        self.correct += torch.stack([(decoded.argmax(dim=1) == targets).sum() for decoded in scores]).cpu()
        best = scores[-1].topk(min(5, self.num_classes), dim=1).indices
        self.top5 += int((best == targets[:, None]).sum())
        self.loss += F.cross_entropy(scores[-1], targets, reduction="sum").item()
        self.outcomes[first : first + len(targets)] = targets * self.num_classes + scores[-1].argmax(dim=1)

    def evaluation(self, data: dict[str, Any], classes: list[str]) -> Evaluation:
        """Return the evaluation that the counts make up."""
        confusion = torch.bincount(self.outcomes, minlength=self.num_classes**2)
        return Evaluation(
            data=data,
            classes=classes,
            top1=self.correct[-1].item() / self.num_images,
            top5=self.top5 / self.num_images,
            loss=self.loss / self.num_images,
            boundaries=[correct / self.num_images for correct in self.correct.tolist()],
            confusion=confusion.view(self.num_classes, self.num_classes),
            outcomes=self.outcomes,
        )


def _check_classes(dataset: Dataset, card: ModelCard, run: Path) -> None:
    if list(dataset.classes) != card.classes:
        raise UserError(
            f"data={dataset.name} has {dataset.num_classes} classes ({''.join(dataset.classes)[:60]}), "
            f"the network of {run} was trained on {len(card.classes)} ({''.join(card.classes)[:60]})"
        )


def _load_segments(run: Path, card: ModelCard, device: torch.device) -> list[nn.Module]:
    """Load the trained segments of `run`, each with the projection that stands before it, if any."""
    chain = Chain(*load_recorded(run, device))
    edges = [chain.cut_named(name) for name in (None, *card.cuts, None)]
    projections = card.make_projections(device)
    return [
        nn.Sequential(projections.get(start.name if start else "", nn.Identity()), chain.extract_segment(start, stop))
        for start, stop in itertools.pairwise(edges)
    ]


def _make_boundaries(segments: list[nn.Module], image: Tensor, card: ModelCard) -> list[OutputBoundary]:
    """Return the boundary behind each segment; a batch of one `image` shows their shapes."""
    labels = LABELS.from_dict(card.labels)
    boundaries: list[OutputBoundary] = []
    for index, segment in enumerate(segments[:-1], start=1):
        image = segment(image)
        shape, num_classes = image.shape[1:], len(card.classes)
        boundaries.append(SyntheticBoundary(index, shape, num_classes, labels, card.seed, image.device))
    return [*boundaries, ClassBoundary()]


def _decode(segments: list[nn.Module], boundaries: list[OutputBoundary], values: Tensor) -> list[Tensor]:
    """Return the class scores [batch, classes] of a batch of images at every boundary."""
    scores = []
    for segment, boundary in zip(segments, boundaries, strict=True):
        values = segment(values)
        scores.append(boundary.scores(values.clone()))  # The next segment may change its input in place.
    return scores


def _with_progress(batches: range, *, show_progress: bool) -> Iterator[int]:
    """Yield the batches, with a progress bar that follows them."""
    with ProgressDisplay(show_progress=show_progress, show_percentage=True, is_transient=True) as progress:
        progress.add("batches", "evaluating", total=len(batches))
        for batch in batches:
            yield batch
            progress.advance("batches", 1)
