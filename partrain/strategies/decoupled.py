"""Decoupled greedy learning (arXiv 1901.08164): activations go to the right, no gradients come back.

Every segment but the last learns the classes through a linear classifier of its own, which is thrown away in the end.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partrain.networks.deferred import materialise, record_network
from partrain.rng import derive_seed
from partrain.strategies.stages import StageTraining
from partrain.training.loop import Step
from partrain.training.optimization import autocast, weight_dtype

_POOLED = 2  # a feature map is averaged to so many values a side before its classifier


class Decoupled(StageTraining):
    """Neighbours run a step apart: what the left one computes next is on its way while the right one still learns."""

    def build(self) -> nn.Module:
        self.segment = super().build()
        self.agree_on_types(self.segment)
        self.leaving: tuple[Tensor, dist.Work] | None = None
        self.coming: tuple[Tensor, dist.Work] | None = None
        if self.is_last:
            self.classifier: nn.Module = nn.Identity()
        else:
            self.classifier = self.build_classifier()
        return nn.ModuleDict({"segment": self.segment, "classifier": self.classifier})

    def build_classifier(self) -> nn.Module:
        """From the segment's outputs to classes."""
        shape, classes = self.task.stop_shape, self.task.num_classes
        maps = len(shape) == 3
        pool = nn.AdaptiveAvgPool2d(_POOLED) if maps else nn.Identity()
        size = shape[0] * _POOLED**2 if maps else int(torch.Size(shape).numel())
        classifier, tape = record_network(lambda: nn.Sequential(pool, nn.Flatten(), nn.Linear(size, classes)))
        materialise(classifier, tape, derive_seed(self.task.seed, "classifier", self.rank), self.device)
        return classifier.to(weight_dtype(self.precision))

    def forward_backward(self, step: Step) -> Tensor:
        features = self.first_features(step.batch) if self.is_first else self.next_features()
        targets = self.targets(step.batch)
        with autocast(self.precision, self.device):
            output = self.segment(features)
            if not self.is_last:
                self.send(output.detach())
            scores = self.classifier(output)
        loss = self.output.loss(scores, targets)
        self.update_metrics(scores, targets, step)
        del output, scores
        loss.backward()
        if step.ends_epoch:
            self.wait_for_departure()  # an epoch's traffic is its own
        return loss

    def send(self, output: Tensor) -> None:
        """To the right, once the last output has left."""
        self.wait_for_departure()
        self.leaving = self.send_features(output)

    def wait_for_departure(self) -> None:
        if self.leaving is not None:
            self.leaving[1].wait()
            self.leaving = None

    def next_features(self) -> Tensor:
        """From the left; those of the step after are asked for at once."""
        features, arrival = self.coming or self.ask_for_features()
        arrival.wait()
        more = self.progress.step + 1 < self.progress.end
        self.coming = self.ask_for_features() if more else None
        return features

    def weights(self) -> dict[str, Tensor]:
        return dict(self.segment.state_dict())
