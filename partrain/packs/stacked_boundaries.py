"""Boundaries of several trainings at once: what a stack is fed, and what its outputs are held to.

What a boundary means is said in `partrain.boundaries`; here are its sums over M trainings in one call, where all of them
end at the same kind of boundary, and one by one where they do not.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from partrain.boundaries.boundary import ClassBoundary, DataBoundary, OutputBoundary, SyntheticBoundary, full_precision
from partrain.data.batches import Batch
from partrain.training.segment import SegmentTraining


def sample(trainings: Sequence[SegmentTraining], batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Features [M, batch, *shape] and targets [M, batch] or [M, batch, classes], each training's for its own batch.

    Images that all see in the same step are gathered once and shared.
    """
    first, count = trainings[0], len(trainings)
    inputs = [training.input for training in trainings]
    if len({each.images if isinstance(each, DataBoundary) else each for each in inputs}) > 1:
        features, targets = zip(*(each.sample(batch) for each, batch in zip(inputs, batches, strict=True)), strict=True)
        return torch.stack(features), torch.stack(targets)
    if all(training.order == first.order for training in trainings) and len({batch.step for batch in batches}) == 1:
        images, labels = inputs[0].sample(batches[0])
        return images.expand(count, *images.shape), labels.expand(count, *labels.shape)
    indices = torch.cat([batch.indices for batch in batches])
    images, labels = inputs[0].sample(Batch(batches[0].step, indices))
    return images.unflatten(0, (count, -1)), labels.unflatten(0, (count, -1))


class StackedOutput(Protocol):
    """Where M trainings end."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """[M, batch, *shape] -> [M, n], of which the means over n are the trainings' own losses."""
        ...

    def scores(self, outputs: Tensor) -> Tensor:
        """[M, batch, *shape] -> [M, batch, classes]."""
        ...


class _Classes:
    """All end at the class labels."""

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropies(full_precision(outputs), targets)


class _Similarities:
    """All end at codes under cross-entropy: `codes` [M, classes, size]."""

    def __init__(self, boundaries: Sequence[SyntheticBoundary]) -> None:
        self.codes = torch.stack([boundary.codes for boundary in boundaries])

    def scores(self, outputs: Tensor) -> Tensor:
        outputs = full_precision(outputs).flatten(2)
        return torch.bmm(outputs, self.codes.to(outputs.dtype).transpose(1, 2))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropies(self.scores(outputs), targets)


class _OneByOne:
    """Each by its own boundary."""

    def __init__(self, boundaries: Sequence[OutputBoundary]) -> None:
        self._boundaries = boundaries

    def scores(self, outputs: Tensor) -> Tensor:
        return torch.stack([each.scores(output) for each, output in zip(self._boundaries, outputs, strict=True)])

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(self._boundaries, outputs, targets, strict=True)
        return torch.stack([each.loss(output, wanted) for each, output, wanted in pairs]).unsqueeze(1)


def cross_entropies(scores: Tensor, targets: Tensor) -> Tensor:
    """[M, batch, classes] and class numbers [M, batch] or probabilities [M, batch, classes] -> [M, batch]."""
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return losses.view(scores.shape[:2])


def stacked_output(trainings: Sequence[SegmentTraining]) -> StackedOutput:
    """Where all of `trainings` end."""
    boundaries = [training.output for training in trainings]
    if all(isinstance(boundary, ClassBoundary) for boundary in boundaries):
        return _Classes()
    synthetic = [boundary for boundary in boundaries if isinstance(boundary, SyntheticBoundary)]
    if len(synthetic) == len(boundaries) and all(boundary.uses_similarity for boundary in synthetic):
        return _Similarities(synthetic)
    return _OneByOne(boundaries)
