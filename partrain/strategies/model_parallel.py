"""Model parallel: every process has a segment; a batch goes through them forward and back, one working at a time."""

import torch.distributed as dist
from torch import Tensor, nn

from partrain.strategies.stages import StageTraining
from partrain.training.loop import Step
from partrain.training.optimization import autocast


class ModelParallel(StageTraining):
    """Sends the output to the right and its gradient to the left, by PyTorch's point-to-point messages."""

    def build(self) -> nn.Module:
        model = super().build()
        self.agree_on_types(model)
        return model

    def forward_backward(self, step: Step) -> Tensor | None:
        features = self.first_features(step.batch) if self.is_first else self.receive_features()
        with autocast(self.precision, self.device):
            output = self.model(features)
        loss = None
        if self.is_last:
            targets = self.targets(step.batch)
            loss = self.output.loss(output, targets)
            self.update_metrics(output, targets, step)
            del output
            loss.backward()
        else:
            _, departure = self.send_features(output.detach())
            departure.wait()
            gradient = output.new_empty(output.shape)
            dist.recv(gradient, self.rank + 1)
            output.backward(gradient)
        if not self.is_first:
            assert features.grad is not None
            dist.send(features.grad, self.rank - 1)
        return loss

    def receive_features(self) -> Tensor:
        features, arrival = self.ask_for_features()
        arrival.wait()
        return features.requires_grad_()
