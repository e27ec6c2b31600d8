"""Boundaries: what the segment to the right is fed, and what the segment to the left is held to.

An input side's `sample` gives features and targets, a batch each; an output side's `loss` compares a segment's output
with the targets. Targets are class numbers [batch] or class probabilities [batch, classes].
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from partrain.boundaries.code_layout import code_size, spread
from partrain.boundaries.labels import LabelSettings, make_codes
from partrain.data.batches import Batch, DeviceImages
from partrain.rng import derive, generator


class Input(Protocol):
    """Where a segment begins."""

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features [batch, *shape] and targets."""
        ...

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        """Adapt the trained `segment` to real inputs, where samples did not determine all of its weights."""
        ...


class Output(Protocol):
    """Where a segment ends."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """What training makes small: a scalar."""
        ...

    def scores(self, output: Tensor) -> Tensor:
        """Decodes: [batch, *shape] -> [batch, classes], the highest for the class the output stands for."""
        ...


class DataBoundary:
    """Boundary 0: the images and their labels."""

    def __init__(self, images: DeviceImages) -> None:
        self.images = images

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.images.gather(batch.indices)

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        pass


class StoredBoundary:
    """A synthetic boundary of the sequential schedule: the trained left segment's outputs, read from a file."""

    def __init__(self, outputs: Tensor, labels: Tensor) -> None:
        self._outputs = outputs
        self._labels = labels

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = self._outputs.index_select(0, batch.indices.to(self._outputs.device))
        return exact(features.to(batch.indices.device)), self._labels.index_select(0, batch.indices)

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        pass


class ClassBoundary:
    """The last boundary: class scores under cross-entropy."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(exact(output), targets)

    def scores(self, output: Tensor) -> Tensor:
        return output


def exact(output: Tensor) -> Tensor:
    """`output` in fp32, or in fp64 if it is: a loss wants more digits than a layer."""
    return output if output.dtype == torch.float64 else output.float()


def make_codes_at(index: int, shape: Sequence[int], num_classes: int, labels: LabelSettings, seed: int) -> Tensor:
    """The codes [classes, product of shape] at boundary `index`, not yet scaled.

    Raises:
        ValueError: `labels` make no usable codes there.
    """
    codes = make_codes(labels, num_classes, code_size(shape, num_classes), generator(seed, "codes", index))
    return spread(codes, shape, num_classes)


class SyntheticBoundary:
    """Boundary `index`, 1 ... K-1: a code per class, the same on both sides from (seed, index, shape, settings) alone.

    `codes` [classes, size], where size is the product of `shape`.
    """

    def __init__(
        self, index: int, shape: Sequence[int], num_classes: int, labels: LabelSettings, seed: int, device: torch.device
    ) -> None:
        self.index, self.seed = index, seed
        self.num_classes = num_classes
        self.shape = tuple(shape)
        self.similarity = labels.loss == "similarity"
        codes = make_codes_at(index, shape, num_classes, labels, seed)
        if self.similarity:
            codes = codes - codes.mean(dim=0)  # what all classes share changes no comparison
            codes = codes / codes.square().sum(dim=1).mean().sqrt()
        self.codes = (labels.scale_at(shape) * codes).to(device)
        self.noise = labels.noise_level()
        # the pseudo-inverse [size, classes], by way of a small matrix; centred codes are one short of full rank
        exact = self.codes.double()
        self.inverse = (exact.T @ torch.linalg.pinv(exact @ exact.T, rtol=1e-10, hermitian=True)).float()
        self._generator = torch.Generator(device)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over similarities, or the mean squared distance to the (expected) code."""
        if self.similarity:
            return F.cross_entropy(self.scores(output), targets)
        wanted = self.codes[targets] if targets.ndim == 1 else targets @ self.codes
        output = exact(output).flatten(1)
        return F.mse_loss(output, wanted.to(output.dtype))

    def scores(self, output: Tensor) -> Tensor:
        """Similarity: products with the codes. Mse: minus half the squared distances, less what classes share."""
        output = exact(output).flatten(1)
        products = output @ self.codes.to(output.dtype).T
        return products if self.similarity else products - self.codes.square().sum(dim=1) / 2

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Drawn anew for every step, every class as likely; docs/labels.md says why they are what they are."""
        self._generator.manual_seed(derive(self.seed, "samples", self.index, batch.step))
        features, targets = self._mixtures(len(batch.indices)) if self.similarity else self._blurred(len(batch.indices))
        return features.view(-1, *self.shape), targets

    def _mixtures(self, count: int) -> tuple[Tensor, Tensor]:
        """Mixtures of codes whose class scores are known, random z, and softmax(z) as targets.

        A left side trained by cross-entropy gives scores that are calibrated: softmax of them is the probability of
        each class. So features with scores z must mean softmax(z). The spread of z differs from sample to sample, from
        undecided to certain.
        """
        device = self.codes.device
        spread = 2 * self.noise * torch.rand(count, 1, generator=self._generator, device=device)
        scores = spread * torch.randn(count, self.num_classes, generator=self._generator, device=device)
        return scores @ self.inverse.T, scores.softmax(dim=1)

    def _blurred(self, count: int) -> tuple[Tensor, Tensor]:
        """Codes under Gaussian noise of `noise` times their own standard deviation."""
        device = self.codes.device
        targets = torch.randint(self.num_classes, (count,), generator=self._generator, device=device)
        blur = torch.randn(count, self.codes.shape[1], generator=self._generator, device=device)
        return self.codes[targets] + self.noise * self.codes.std() * blur, targets

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        """Project the weights of a linear first layer onto the span of the codes; see `Projection`."""
        layer = _first_layer(segment)
        if self.similarity and isinstance(layer, nn.Linear):
            inverse, codes = (part.to(layer.weight.dtype) for part in (self.inverse, self.codes))
            with torch.no_grad():
                layer.weight.copy_((layer.weight @ inverse) @ codes)


class Projection(nn.Module):
    """Takes a left side's output to the span of the codes, which is all that the right side has learnt to read.

    Mixtures of codes have no component outside that span, so weights for it were never trained and still hold their
    random start; a real output does have such components, and they would get through as noise. A linear first layer
    takes the projection into its weights (`SyntheticBoundary.project_onto_codes`); before any other layer it stays in
    the stitched network as this module, without parameters and made from the seed.
    """

    codes: Tensor
    inverse: Tensor

    def __init__(self, boundary: SyntheticBoundary) -> None:
        super().__init__()
        self.register_buffer("codes", boundary.codes, persistent=False)
        self.register_buffer("inverse", boundary.inverse, persistent=False)

    def forward(self, output: Tensor) -> Tensor:
        scores = output.flatten(1) @ self.codes.T
        return (scores @ self.inverse.T).view_as(output)


def make_projections(
    places: Mapping[str, tuple[int, Sequence[int]]],
    num_classes: int,
    labels: LabelSettings,
    seed: int,
    device: torch.device,
) -> dict[str, nn.Module]:
    """The projections that stand at the cuts named in `places`, whose values are boundary index and shape."""
    return {
        cut: Projection(SyntheticBoundary(index, shape, num_classes, labels, seed, device))
        for cut, (index, shape) in places.items()
    }


def needs_projection(segment: fx.GraphModule, labels: LabelSettings) -> bool:
    """Whether a `Projection` must stand before `segment`, trained on mixtures of codes."""
    return labels.loss == "similarity" and not isinstance(_first_layer(segment), nn.Linear)


def _first_layer(segment: fx.GraphModule) -> nn.Module | None:
    """The module that reads the segment's input, looking past a flattening."""
    node = next(node for node in segment.graph.nodes if node.op == "placeholder")
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = segment.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, nn.Flatten):
            return module
    return None
