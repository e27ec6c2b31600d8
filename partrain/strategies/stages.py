"""The training of one segment in a group: its neighbours, and the tensors sent between them."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partrain.data.batches import Batch
from partrain.strategies.rank import RankTraining
from partrain.training.context import TrainingContext
from partrain.training.meters import PeakMemory
from partrain.training.optimization import autocast, weight_dtype

_DTYPES = (torch.bfloat16, torch.float32, torch.float64)  # Processes send their numbers in this list.


class StageTraining(RankTraining):
    """A process that trains one segment. The first one gets images, and the last one compares with labels.

    Attributes:
        input_dtype: The dtype of the features that the segment receives.
        output_dtype: The dtype of the features that it sends.
    """

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        super().__init__(folder, context, memory)
        self.input_dtype, self.output_dtype = self.exchange_dtypes()

    @property
    def segment(self) -> nn.Module:
        """Return the segment, which is the whole model unless a strategy trains more than it."""
        return self.model

    @property
    def is_first(self) -> bool:
        """Return whether no process is to the left of this one."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Return whether no process is to the right of this one."""
        return self.rank == self.num_ranks - 1

    def first_features(self, batch: Batch) -> Tensor:
        """Return the images [batch, channels, height, width] of a batch, which are the first segment's features."""
        features, _ = self.images.gather(batch.indices)
        return features.to(weight_dtype(self.precision))

    def targets(self, batch: Batch) -> Tensor:
        """Return the labels [batch] of a batch."""
        return self.images.gather_labels(batch.indices)

    def exchange_dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Return the dtypes of this segment's inputs and outputs.

        Autocast decides them layer by layer, so that each process computes its outputs' dtype from its inputs' and sends
        it to the right. The segment is evaluated on zeros, which draws no random number and counts no batch.
        """
        number = torch.empty((), dtype=torch.long, device=self.device)
        input_dtype = weight_dtype(self.precision)
        if not self.is_first:
            dist.recv(number, self.rank - 1)
            input_dtype = _DTYPES[int(number)]

        features = torch.zeros(1, *self.task.start_shape, dtype=input_dtype, device=self.device)
        with torch.no_grad(), autocast(self.precision, self.device):
            output_dtype = self.segment.eval()(features).dtype
        self.segment.train()

        if not self.is_last:
            dist.send(number.fill_(_DTYPES.index(output_dtype)), self.rank + 1)
        return input_dtype, output_dtype

    def start_sending(self, output: Tensor) -> tuple[Tensor, dist.Work]:
        """Start to send the segment's output [batch, *shape] to the right.

        Returns:
            A tensor that must exist until it is sent, and the work whose `wait` returns then.
        """
        output = output.contiguous()
        work = dist.isend(output, self.rank + 1)
        assert work is not None
        return output, work

    def start_receiving(self) -> tuple[Tensor, dist.Work]:
        """Start to receive the output of the segment to the left.

        Returns:
            The tensor [batch, *shape] that will hold it, and the work whose `wait` returns when it does.
        """
        shape = (self.task.train.batch_size, *self.task.start_shape)
        features = torch.empty(shape, dtype=self.input_dtype, device=self.device)
        work = dist.irecv(features, self.rank - 1)
        assert work is not None
        return features, work
