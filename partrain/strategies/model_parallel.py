"""Model parallel: every process has a segment. A batch goes through them forward and back, one process at a time."""

import torch.distributed as dist
from torch import Tensor

from partrain.strategies.stages import StageTraining
from partrain.training.loop import Step
from partrain.training.optimization import autocast


class ModelParallel(StageTraining):
    """A process that sends outputs to the right and gradients to the left, by PyTorch's point-to-point messages."""

    def forward_backward(self, step: Step) -> Tensor | None:
        """Compute the segment's gradients for a batch. Return the loss in the last process, None in the others."""
        features = self.first_features(step.batch) if self.is_first else self.receive_features()
        with autocast(self.precision, self.device):
            output = self.segment(features)
        loss = None
        if self.is_last:
            targets = self.targets(step.batch)
            loss = self.output.loss(output, targets)
            self.update_metrics(output, targets, step)
            del output  # The backward pass could not free it otherwise.
            loss.backward()
        else:
            output.backward(self.exchange_for_gradient(output.detach()))
        if not self.is_first:
            assert features.grad is not None
            dist.send(features.grad, self.rank - 1)
        return loss

    def receive_features(self) -> Tensor:
        """Return the output [batch, *shape] of the segment to the left, once it has arrived."""
        features, arrival = self.start_receiving()
        arrival.wait()
        return features.requires_grad_()

    def exchange_for_gradient(self, output: Tensor) -> Tensor:
        """Send an output to the right and return its gradient, once it has come back."""
        _, departure = self.start_sending(output)
        departure.wait()
        gradient = output.new_empty(output.shape)
        dist.recv(gradient, self.rank + 1)
        return gradient
