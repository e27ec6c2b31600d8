"""Boundaries: the samples that a segment is fed on its left, and the loss that it is held to on its right.

A boundary of the network is used from both sides. The segment to its left uses it as an `OutputBoundary`, the segment
to its right as an `InputBoundary`. Targets are class numbers [batch] or class probabilities [batch, classes].
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from partrain.boundaries.code_layout import code_size, lay_out_codes
from partrain.boundaries.labels import LabelSettings, make_codes
from partrain.data.batches import Batch, DeviceImages, SelectedImages
from partrain.device import supports_fp64
from partrain.rng import derive_seed, generator


class InputBoundary(Protocol):
    """The boundary at which a segment begins: it supplies features and targets."""

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the features [batch, *shape] and the targets of a batch."""
        ...

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        """Adapt a trained segment to real inputs, where its samples did not determine all of its weights."""
        ...


class OutputBoundary(Protocol):
    """The boundary at which a segment ends: it measures the segment's output."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of outputs [batch, *shape], a scalar."""
        ...

    def scores(self, output: Tensor) -> Tensor:
        """Decode outputs [batch, *shape] to class scores [batch, classes], highest for the class that is meant."""
        ...


class DataBoundary:
    """The boundary 0: the training images and their labels."""

    def __init__(self, images: DeviceImages | SelectedImages) -> None:
        self.images = images

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the batch's images [batch, channels, height, width] and labels [batch]."""
        return self.images.gather(batch.indices)

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        """Change nothing: images determine all weights of a segment."""


class StoredBoundary:
    """A boundary of the sequential schedule: the trained left segment's outputs [images, *shape], from a file."""

    def __init__(self, outputs: Tensor, labels: Tensor) -> None:
        self._outputs = outputs
        self._labels = labels

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the left segment's outputs for the batch's images, and their labels [batch]."""
        features = self._outputs.index_select(0, batch.indices.to(self._outputs.device))
        return full_precision(features.to(batch.indices.device)), self._labels.index_select(0, batch.indices)

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        """Change nothing: the left segment's outputs are real inputs."""


class ClassBoundary:
    """The last boundary: class scores under cross-entropy."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of class scores [batch, classes]."""
        return F.cross_entropy(full_precision(output), targets)

    def scores(self, output: Tensor) -> Tensor:
        """Return the output itself: it is class scores already."""
        return output


class SyntheticBoundary:
    """A boundary between two segments: a random code for each class, and samples made of codes.

    Boundary number `index` is from 1 to K-1. Both sides make the same codes from (seed, index, shape, settings) alone,
    so that nothing is sent between them.

    Attributes:
        codes: The codes [classes, size], where size is the product of the boundary's shape.
        pseudo_inverse: E = pinv(C) of the codes C, [size, classes]. E^T maps class scores to a sample that has them.
        uses_similarity: Whether the loss is cross-entropy over products with the codes; otherwise it is the squared
            distance to the code of the target.
        noise: How much samples are blurred; `LabelSettings.noise` has its unit.
    """

    def __init__(
        self, index: int, shape: Sequence[int], num_classes: int, labels: LabelSettings, seed: int, device: torch.device
    ) -> None:
        self.index, self.seed = index, seed
        self.num_classes = num_classes
        self.shape = tuple(shape)
        self.uses_similarity = labels.loss == "similarity"
        self.noise = labels.noise_level()

        codes = make_boundary_codes(index, shape, num_classes, labels, seed)
        self.codes = labels.scale_at(shape) * (_centred(codes) if self.uses_similarity else codes)
        self.codes = self.codes.to(device)
        self.pseudo_inverse = _pseudo_inverse(self.codes)
        self._generator = torch.Generator(device)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy over similarities, or the mean squared distance to the target's (expected) code."""
        if self.uses_similarity:
            return F.cross_entropy(self.scores(output), targets)
        target_codes = self.codes[targets] if targets.ndim == 1 else targets @ self.codes
        output = full_precision(output).flatten(1)
        return F.mse_loss(output, target_codes.to(output.dtype))

    def scores(self, output: Tensor) -> Tensor:
        """Return class scores [batch, classes] of outputs [batch, *shape].

        Under similarity they are the products with the codes. Under squared distance they are minus half the distance
        to each code, less a term that all classes share.
        """
        output = full_precision(output).flatten(1)
        products = output @ self.codes.to(output.dtype).T
        return products if self.uses_similarity else products - self.codes.square().sum(dim=1) / 2

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw features [batch, *shape] and targets, anew at every step and every class as likely as any other."""
        self._generator.manual_seed(derive_seed(self.seed, "samples", self.index, batch.step))
        draw = self._draw_mixtures if self.uses_similarity else self._draw_noisy_codes
        features, targets = draw(len(batch.indices))
        return features.view(-1, *self.shape), targets

    def _draw_mixtures(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw mixtures of codes with random class scores z, and softmax(z) as their targets [count, classes].

        A left side trained by cross-entropy gives calibrated scores: their softmax is the probability of each class.
        So a sample with the scores z must mean softmax(z). The standard deviation of z differs from sample to sample,
        from undecided to certain (docs/labels.md).
        """
        device = self.codes.device
        score_std = 2 * self.noise * torch.rand(count, 1, generator=self._generator, device=device)
        scores = score_std * torch.randn(count, self.num_classes, generator=self._generator, device=device)
        return scores @ self.pseudo_inverse.T, scores.softmax(dim=1)

    def _draw_noisy_codes(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw codes with Gaussian noise of `noise` times the codes' standard deviation, and their classes [count]."""
        device = self.codes.device
        targets = torch.randint(self.num_classes, (count,), generator=self._generator, device=device)
        deviations = torch.randn(count, self.codes.shape[1], generator=self._generator, device=device)
        return self.codes[targets] + self.noise * self.codes.std() * deviations, targets

    def project_onto_codes(self, segment: fx.GraphModule) -> None:
        """Restrict the segment's first layer, if it is linear, to the span of the codes.

        Mixtures of codes never leave that span, so the layer's weights in all other directions are untrained. This
        sets W <- (W E) C, with W [out, size]. Before any other layer a `Projection` does the same.
        """
        layer = _first_layer(segment)
        if not self.uses_similarity or not isinstance(layer, nn.Linear):
            return
        encoder, codes = self.pseudo_inverse.to(layer.weight.dtype), self.codes.to(layer.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_((layer.weight @ encoder) @ codes)


class Projection(nn.Module):
    """A module that takes a left side's output to the span of the codes, all that the right side can read.

    Mixtures of codes have no component outside that span. Weights for it were never trained and still hold their random
    start, so the components that a real output has there would come through as noise. A linear first layer takes the
    projection into its weights (`SyntheticBoundary.project_onto_codes`). Before any other layer this module stays in
    the stitched network, without parameters and made from the seed.
    """

    codes: Tensor
    pseudo_inverse: Tensor

    def __init__(self, boundary: SyntheticBoundary) -> None:
        super().__init__()
        self.register_buffer("codes", boundary.codes, persistent=False)
        self.register_buffer("pseudo_inverse", boundary.pseudo_inverse, persistent=False)

    def forward(self, output: Tensor) -> Tensor:
        """Return the projection of outputs [batch, *shape], in their shape."""
        scores = output.flatten(1) @ self.codes.T
        return (scores @ self.pseudo_inverse.T).view_as(output)


def make_projections(
    places: Mapping[str, tuple[int, Sequence[int]]],
    num_classes: int,
    labels: LabelSettings,
    seed: int,
    device: torch.device,
) -> dict[str, nn.Module]:
    """Return a projection for each cut in `places`, by the cut's name.

    Args:
        places: Boundary number and shape per image, by the name of the cut.
        num_classes: Number of classes.
        labels: The settings that the codes are made with.
        seed: The seed of the run.
        device: The device of the projections.
    """
    return {
        cut: Projection(SyntheticBoundary(index, shape, num_classes, labels, seed, device))
        for cut, (index, shape) in places.items()
    }


def needs_projection(segment: fx.GraphModule, labels: LabelSettings) -> bool:
    """Return whether a `Projection` must stand before `segment`, trained on mixtures of codes."""
    return labels.loss == "similarity" and not isinstance(_first_layer(segment), nn.Linear)


def make_boundary_codes(index: int, shape: Sequence[int], num_classes: int, labels: LabelSettings, seed: int) -> Tensor:
    """Return the codes [classes, product of shape] at boundary number `index`, not yet centred or scaled.

    Raises:
        UserError: If `labels` make no usable codes there.
    """
    codes = make_codes(labels, num_classes, code_size(shape, num_classes), generator(seed, "codes", index))
    return lay_out_codes(codes, shape, num_classes)


def full_precision(output: Tensor) -> Tensor:
    """Return `output` in fp32, or as it is if it is fp64: a loss needs more digits than a layer."""
    return output if output.dtype == torch.float64 else output.float()


def _centred(codes: Tensor) -> Tensor:
    """Return codes [classes, size] with mean 0 over the classes and norms whose root mean square is 1.

    A component that all classes share changes no comparison between them.
    """
    codes = codes - codes.mean(dim=0)
    return codes / codes.square().sum(dim=1).mean().sqrt()


def _pseudo_inverse(codes: Tensor) -> Tensor:
    """Return the pseudo-inverse [size, classes] of codes [classes, size], in fp32.

    It goes by way of a small matrix [classes, classes], in fp64, on the CPU if the codes' device has none. Centred codes
    are one short of full rank.
    """
    codes64 = (codes if supports_fp64(codes.device) else codes.cpu()).double()
    inverse = codes64.T @ torch.linalg.pinv(codes64 @ codes64.T, rtol=1e-10, hermitian=True)
    return inverse.float().to(codes.device)


def _first_layer(segment: fx.GraphModule) -> nn.Module | None:
    """Return the module that reads the segment's input, looking past a flattening, or None if it is no module."""
    node = next(node for node in segment.graph.nodes if node.op == "placeholder")
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = segment.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, nn.Flatten):
            return module
    return None
