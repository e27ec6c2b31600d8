"""Pipelines: PyTorch's torch.distributed.pipelining. A batch goes through the segments in microbatches, several at once.

GPipe (arXiv 1811.06965) computes all forward passes and then all backward passes. 1F1B (arXiv 1806.03377) alternates
them, and holds fewer activations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from partrain.strategies.stages import StageTraining
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import autocast


class Pipeline(StageTraining):
    """A process with one stage of a pipeline.

    Batch normalisation sees microbatches, as in every pipeline. Any other layer computes what it would end to end.

    Attributes:
        schedule: PyTorch's schedule of forward and backward passes.
    """

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        super().__init__(folder, context, memory)
        stage = PipelineStage(
            self.model,
            self.rank,
            self.num_ranks,
            self.device,
            # PyTorch would find these out by a step of its own, which batch normalisation would count.
            input_args=self.example(self.task.start_shape, self.input_dtype, needs_gradient=not self.is_first),
            output_args=self.example(self.task.stop_shape, self.output_dtype, needs_gradient=True),
        )
        schedule = ScheduleGPipe if self.task.strategy == "gpipe" else Schedule1F1B
        self.schedule = schedule(stage, self.task.microbatches, loss_fn=self.microbatch_loss)
        self._measured: list[tuple[Tensor, Tensor]] | None = None  # Outputs and targets of a logged step.

    def build_model(self) -> nn.Module:
        """Return the stage's segment in a contiguous layout, since messages are sent in no other."""
        return super().build_model().to(memory_format=torch.contiguous_format)

    def example(self, shape: Sequence[int], dtype: torch.dtype, *, needs_gradient: bool) -> Tensor:
        """Return a tensor like a microbatch [microbatch, *shape] at a boundary, without values."""
        size = self.task.train.batch_size // self.task.microbatches
        return torch.empty(size, *shape, dtype=dtype, device="meta", requires_grad=needs_gradient)

    def forward_backward(self, step: Step) -> Tensor | None:
        """Compute the stage's gradients for a batch. Return the loss in the last process, None in the others."""
        arguments = (self.first_features(step.batch),) if self.is_first else ()
        options: dict[str, Any] = {"return_outputs": False}
        if self.is_last:
            options |= {"target": self.targets(step.batch), "losses": []}
            self._measured = [] if step.is_logged else None
        with autocast(self.precision, self.device):
            self.schedule.step(*arguments, **options)
        if not self.is_last:
            return None

        if self._measured is not None:
            outputs, targets = map(torch.cat, zip(*self._measured, strict=True))
            self.update_metrics(outputs, targets, step)
        return torch.stack(options["losses"]).mean()

    def microbatch_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a microbatch, and hold its output if the step is logged."""
        if self._measured is not None:
            self._measured.append((output.detach(), targets))
        return self.output.loss(output, targets)
