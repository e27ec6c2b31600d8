"""Boundaries: what the segment to the right is fed, and what the segment to the left is held to.

An input side's `sample` gives features and targets, a batch each; an output side's `loss` compares a segment's output
with the targets. Targets are class numbers [batch] or class probabilities [batch, classes].
"""

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from partrain.data import Dataset
from partrain.data.batches import Batch, Images
from partrain.labels import LabelSettings, make_codes
from partrain.layout import Layout
from partrain.seeds import derive, generator
from partrain.stored import open_outputs
from partrain.task import SegmentTask


class Input(Protocol):
    """Where a segment begins."""

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features [batch, *shape] and targets."""
        ...

    def settle(self, segment: fx.GraphModule) -> None:
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

    def __init__(self, images: Images) -> None:
        self._images = images

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._images.gather(batch.indices)

    def settle(self, segment: fx.GraphModule) -> None:
        pass


class StoredBoundary:
    """A synthetic boundary of the sequential schedule: the trained left segment's outputs, read from a file."""

    def __init__(self, outputs: Tensor, labels: Tensor) -> None:
        self._outputs = outputs
        self._labels = labels

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = self._outputs.index_select(0, batch.indices.to(self._outputs.device))
        return features.to(batch.indices.device).float(), self._labels.index_select(0, batch.indices)

    def settle(self, segment: fx.GraphModule) -> None:
        pass


class ClassBoundary:
    """The last boundary: class scores under cross-entropy."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), targets)

    def scores(self, output: Tensor) -> Tensor:
        return output


class SyntheticBoundary:
    """Boundary `index`, 1 ... K-1: a code per class, the same on both sides from (seed, index, shape, settings) alone."""

    def __init__(
        self, index: int, shape: list[int], num_classes: int, labels: LabelSettings, seed: int, device: torch.device
    ) -> None:
        self.index, self.seed = index, seed
        self.num_classes = num_classes
        self.layout = Layout(shape, num_classes)
        self.similarity = labels.loss == "similarity"
        codes = make_codes(labels, num_classes, self.layout.size, generator(seed, "codes", index))
        if self.similarity:
            codes = codes - codes.mean(dim=0)  # what all classes share changes no comparison
            codes = codes / codes.norm(dim=1, keepdim=True)
        scale = labels.scale if labels.scale is not None else (4.0 if self.similarity else 1.0)
        self.noise = labels.noise if labels.noise is not None else (5.0 if self.similarity else 0.5)
        self.codes = (scale * codes).to(device)
        # centred codes are one short of full rank
        self._inverse = torch.linalg.pinv(self.codes.double(), rtol=1e-5).float().T.contiguous()
        self._generator = torch.Generator(device)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over similarities, or the mean squared distance to the (expected) code."""
        if self.similarity:
            return F.cross_entropy(self.scores(output), targets)
        wanted = self.codes[targets] if targets.ndim == 1 else targets @ self.codes
        return F.mse_loss(output.float(), self.layout.spread(wanted))

    def scores(self, output: Tensor) -> Tensor:
        """Similarity: products with the codes. Mse: minus half the squared distances, less what classes share."""
        products = self.layout.gather(output.float()) @ self.codes.T
        return products if self.similarity else products - self.codes.square().sum(dim=1) / 2

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Drawn anew for every step, every class as likely; see `docs/labels.md` for why they are what they are."""
        self._generator.manual_seed(derive(self.seed, "samples", self.index, batch.step))
        features, targets = self._mixtures(len(batch.indices)) if self.similarity else self._blurred(len(batch.indices))
        return self.layout.spread(features), targets

    def _mixtures(self, count: int) -> tuple[Tensor, Tensor]:
        """Mixtures of codes whose class scores are known, random z, and softmax(z) as targets.

        A left side trained by cross-entropy gives scores that are calibrated: softmax of them is the probability of
        each class. So features with scores z must mean softmax(z). The spread of z differs from sample to sample, from
        undecided to certain.
        """
        device = self.codes.device
        spread = 2 * self.noise * torch.rand(count, 1, generator=self._generator, device=device)
        scores = spread * torch.randn(count, self.num_classes, generator=self._generator, device=device)
        return scores @ self._inverse, scores.softmax(dim=1)

    def _blurred(self, count: int) -> tuple[Tensor, Tensor]:
        """Codes under Gaussian noise of `noise` times their own standard deviation."""
        device = self.codes.device
        targets = torch.randint(self.num_classes, (count,), generator=self._generator, device=device)
        blur = torch.randn(count, self.codes.shape[1], generator=self._generator, device=device)
        return self.codes[targets] + self.noise * self.codes.std() * blur, targets

    def settle(self, segment: fx.GraphModule) -> None:
        """Project the first layer's weights onto the span of the codes.

        Mixtures of codes have no component outside that span, so weights for it were never trained and still hold
        their random start; a real left side does have such components, and would get through them as noise.
        """
        layer = _first_layer(segment)
        if not self.similarity or layer is None:
            return
        projector = self._inverse.T @ self.codes  # [size, size]
        with torch.no_grad():
            if isinstance(layer, nn.Linear) and layer.in_features == self.layout.size:
                layer.weight.copy_(layer.weight @ projector)
            elif isinstance(layer, nn.Conv2d) and layer.groups == 1 and self.layout.grid == 1:
                layer.weight.copy_(torch.einsum("ocij,cd->odij", layer.weight, projector))


def _first_layer(segment: fx.GraphModule) -> nn.Module | None:
    """The module that reads the segment's input, looking past a flattening."""
    node = next(node for node in segment.graph.nodes if node.op == "placeholder")
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = segment.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, nn.Flatten):
            return module
    return None


def make_input(task: SegmentTask, folder: Path, device: torch.device) -> Input:
    """The boundary that `task` begins at; only the data and stored boundaries open the data set."""
    if task.start is None:
        dataset = Dataset.open(Path(task.data))
        return DataBoundary(Images(dataset, dataset.train, device))
    if task.stored_input is not None:
        labels = Dataset.open(Path(task.data)).train.labels.to(device)
        return StoredBoundary(open_outputs(folder / task.stored_input), labels)
    return SyntheticBoundary(task.index, task.start_shape, task.num_classes, task.labels, task.seed, device)


def make_output(task: SegmentTask, device: torch.device) -> Output:
    """The boundary that `task` ends at."""
    if task.stop is None:
        return ClassBoundary()
    return SyntheticBoundary(task.index + 1, task.stop_shape, task.num_classes, task.labels, task.seed, device)
