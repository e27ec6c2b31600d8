"""Pipelines: PyTorch's torch.distributed.pipelining. A batch goes through the segments in microbatches, several at once.

GPipe (arXiv 1811.06965) does all forward passes, then all backward ones; 1F1B (arXiv 1806.03377) alternates them and
keeps fewer activations.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from partrain.strategies.stages import StageTraining
from partrain.training.loop import Step
from partrain.training.optimization import autocast


class Pipeline(StageTraining):
    """Batch normalisation sees microbatches, as in every pipeline; anything else computes what end to end would."""

    def build(self) -> nn.Module:
        model = super().build().to(memory_format=torch.contiguous_format)  # messages are sent in no other layout
        self.agree_on_types(model)
        stage = PipelineStage(
            model,
            self.rank,
            self.num_ranks,
            self.device,
            # or PyTorch would find out by a step of its own, which batch normalisation would count
            input_args=self.example(self.task.start_shape, self.input_type, needs_gradient=not self.is_first),
            output_args=self.example(self.task.stop_shape, self.output_type, needs_gradient=True),
        )
        schedule = ScheduleGPipe if self.task.strategy == "gpipe" else Schedule1F1B
        self.schedule = schedule(stage, self.task.microbatches, loss_fn=self.microbatch_loss)
        self.seen: list[tuple[Tensor, Tensor]] | None = None
        return model

    def example(self, shape: Sequence[int], kind: torch.dtype, needs_gradient: bool) -> Tensor:
        """What a microbatch at a boundary looks like, without values."""
        size = self.task.train.batch_size // self.task.microbatches
        return torch.empty(size, *shape, dtype=kind, device="meta", requires_grad=needs_gradient)

    def forward_backward(self, step: Step) -> Tensor | None:
        arguments = (self.first_features(step.batch),) if self.is_first else ()
        options: dict[str, Any] = {"return_outputs": False}
        if self.is_last:
            options |= {"target": self.targets(step.batch), "losses": []}
            self.seen = [] if step.is_logged else None
        with autocast(self.precision, self.device):
            self.schedule.step(*arguments, **options)
        if not self.is_last:
            return None
        if self.seen is not None:
            outputs, targets = map(torch.cat, zip(*self.seen, strict=True))
            self.update_metrics(outputs, targets, step)
        return torch.stack(options["losses"]).mean()

    def microbatch_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        if self.seen is not None:
            self.seen.append((output.detach(), targets))
        return self.output.loss(output, targets)
