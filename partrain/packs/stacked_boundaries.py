"""The boundaries of M trainings at once: the samples of a stack, and the losses of its outputs.

`partrain.boundaries` defines the boundaries. Here their formulas are computed for M trainings in one call, where all of
them end at the same kind of boundary. Otherwise they are computed for one training after another.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from partrain.boundaries.boundary import ClassBoundary, DataBoundary, OutputBoundary, SyntheticBoundary, full_precision
from partrain.data.batches import Batch
from partrain.training.segment import SegmentTraining

# ---- Where segments begin.


def sample_batches(trainings: Sequence[SegmentTraining], batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Return features [M, batch, *shape] and targets [M, batch] or [M, batch, classes] of each training's batch.

    Images that all trainings see in the same step are gathered once and shared.
    """
    if not _share_images(trainings):
        pairs = [training.input.sample(batch) for training, batch in zip(trainings, batches, strict=True)]
        features, targets = zip(*pairs, strict=True)
        return torch.stack(features), torch.stack(targets)

    count, boundary = len(trainings), trainings[0].input
    if _share_batch(trainings, batches):
        images, labels = boundary.sample(batches[0])
        return images.expand(count, *images.shape), labels.expand(count, *labels.shape)
    indices = torch.cat([batch.indices for batch in batches])
    images, labels = boundary.sample(Batch(batches[0].step, indices))
    return images.unflatten(0, (count, -1)), labels.unflatten(0, (count, -1))


def _share_images(trainings: Sequence[SegmentTraining]) -> bool:
    """Return whether all trainings begin at the images of one data set, or at the same boundary object."""
    sources = set()
    for training in trainings:
        boundary = training.input
        sources.add(boundary.images if isinstance(boundary, DataBoundary) else boundary)
    return len(sources) == 1


def _share_batch(trainings: Sequence[SegmentTraining], batches: Sequence[Batch]) -> bool:
    """Return whether all trainings see the same images at their present steps."""
    has_one_order = all(training.order == trainings[0].order for training in trainings)
    return has_one_order and len({batch.step for batch in batches}) == 1


# ---- Where segments end.


class StackedOutput(Protocol):
    """The boundaries at which M trainings end."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses [M, n] of outputs [M, batch, *shape], whose means over n are the trainings' losses."""
        ...


def make_stacked_output(trainings: Sequence[SegmentTraining]) -> StackedOutput:
    """Return the boundaries at which `trainings` end, computed at once if they are of one kind."""
    boundaries = [training.output for training in trainings]
    if all(isinstance(boundary, ClassBoundary) for boundary in boundaries):
        return _StackedClassBoundaries()
    synthetic = [boundary for boundary in boundaries if isinstance(boundary, SyntheticBoundary)]
    if len(synthetic) == len(boundaries) and all(boundary.uses_similarity for boundary in synthetic):
        return _StackedSimilarities(synthetic)
    return _SeparateBoundaries(boundaries)


class _StackedClassBoundaries:
    """The end of M trainings that all end at the class labels."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropies [M, batch]."""
        return cross_entropies(full_precision(outputs), targets)


class _StackedSimilarities:
    """The end of M trainings whose outputs are all compared with codes under cross-entropy.

    Args:
        boundaries: The boundaries of the trainings.
    """

    def __init__(self, boundaries: Sequence[SyntheticBoundary]) -> None:
        self.codes = torch.stack([boundary.codes for boundary in boundaries])  # [M, classes, size]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropies [M, batch] of the products of outputs and codes."""
        outputs = full_precision(outputs).flatten(2)
        scores = torch.bmm(outputs, self.codes.to(outputs.dtype).transpose(1, 2))
        return cross_entropies(scores, targets)


class _SeparateBoundaries:
    """The end of M trainings whose boundaries differ in kind, each computed by itself.

    Args:
        boundaries: The boundaries of the trainings.
    """

    def __init__(self, boundaries: Sequence[OutputBoundary]) -> None:
        self._boundaries = boundaries

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean losses [M, 1]."""
        triples = zip(self._boundaries, outputs, targets, strict=True)
        return torch.stack([boundary.loss(output, target) for boundary, output, target in triples]).unsqueeze(1)


def cross_entropies(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropies [M, batch] of class scores [M, batch, classes].

    Args:
        scores: The class scores.
        targets: Class numbers [M, batch], or class probabilities [M, batch, classes].
    """
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return losses.view(scores.shape[:2])
