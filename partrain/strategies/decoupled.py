"""Decoupled greedy learning (arXiv 1901.08164): activations go to the right, and no gradients come back.

Every segment but the last learns the classes through a linear classifier of its own, which is dropped in the end.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partrain.networks.deferred import materialise, record_network
from partrain.rng import derive_seed
from partrain.strategies.stages import StageTraining
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import autocast, weight_dtype

_POOLED_SIDE = 2  # A feature map is averaged to as many values a side before its classifier.


class Decoupled(StageTraining):
    """A process with one segment and its classifier. Neighbours are a step apart.

    The output of the left segment's next step is on its way while the right segment still learns from the present one:

        left     step 0 ── step 1 ── step 2 …
                      ↘        ↘
        right          step 0 ── step 1 …
    """

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        super().__init__(folder, context, memory)
        self._leaving: tuple[Tensor, dist.Work] | None = None
        self._arriving: tuple[Tensor, dist.Work] | None = None

    @property
    def segment(self) -> nn.Module:
        """Return the segment without its classifier."""
        return self.model.get_submodule("segment")

    @property
    def classifier(self) -> nn.Module:
        """Return the module that maps the segment's outputs to class scores."""
        return self.model.get_submodule("classifier")

    def build_model(self) -> nn.Module:
        """Return the segment and its classifier. The last segment's outputs are class scores already."""
        segment = super().build_model()
        classifier = nn.Identity() if self.is_last else self.build_classifier()
        return nn.ModuleDict({"segment": segment, "classifier": classifier})

    def build_classifier(self) -> nn.Module:
        """Return a linear classifier of the segment's outputs, with initial weights from the task's seed."""
        shape, classes = self.task.stop_shape, self.task.num_classes
        has_maps = len(shape) == 3
        pool = nn.AdaptiveAvgPool2d(_POOLED_SIDE) if has_maps else nn.Identity()
        size = shape[0] * _POOLED_SIDE**2 if has_maps else int(torch.Size(shape).numel())
        classifier, tape = record_network(lambda: nn.Sequential(pool, nn.Flatten(), nn.Linear(size, classes)))
        materialise(classifier, tape, derive_seed(self.task.seed, "classifier", self.rank), self.device)
        return classifier.to(weight_dtype(self.precision))

    def forward_backward(self, step: Step) -> Tensor:
        """Send the segment's output to the right, compute its gradients from its classifier's loss, and return that."""
        features = self.first_features(step.batch) if self.is_first else self.next_features()
        targets = self.targets(step.batch)
        with autocast(self.precision, self.device):
            output = self.segment(features)
            if not self.is_last:
                self.send(output.detach())
            scores = self.classifier(output)
        loss = self.output.loss(scores, targets)
        self.update_metrics(scores, targets, step)
        del output, scores  # The backward pass could not free them otherwise.
        loss.backward()
        if step.ends_epoch:
            self.wait_until_sent()  # The traffic of an epoch is then counted in that epoch.
        return loss

    def is_together(self, step: Step) -> bool:
        """Return whether `step` ends an epoch. Within one, a process would lose the lead that it has over the next."""
        return step.ends_epoch

    def should_stop_after(self, step: Step) -> bool:
        """Return whether to end after `step`: a process that is asked to need not wait for the epoch's end.

        Within an epoch it writes no checkpoint, and the others lose it.
        """
        return super().should_stop_after(step) or self.context.should_stop()

    def send(self, output: Tensor) -> None:
        """Start to send an output to the right, once the last one is sent."""
        self.wait_until_sent()
        self._leaving = self.start_sending(output)

    def wait_until_sent(self) -> None:
        """Wait until the last output is sent, and free it."""
        if self._leaving is not None:
            _, departure = self._leaving
            departure.wait()
            self._leaving = None

    def next_features(self) -> Tensor:
        """Return the output of the segment to the left, and start to receive that of the step after it."""
        features, arrival = self._arriving or self.start_receiving()
        arrival.wait()
        has_next_step = self.progress.step + 1 < self.progress.end
        self._arriving = self.start_receiving() if has_next_step else None
        return features

    def weights(self) -> dict[str, Tensor]:
        """Return the segment's weights by name, without the classifier's."""
        return dict(self.segment.state_dict())
