"""What strategies with a segment per process have in common: neighbours, and tensors sent between them."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partrain.data.batches import Batch
from partrain.strategies.rank import RankTraining
from partrain.training.optimization import autocast, weight_dtype

_TYPES = (torch.bfloat16, torch.float32, torch.float64)


class StageTraining(RankTraining):
    """Stage `rank` of `num_ranks`; the first is fed images, the last compares with labels."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        return self.rank == self.num_ranks - 1

    def first_features(self, batch: Batch) -> Tensor:
        features, _ = self.images.gather(batch.indices)
        return features.to(weight_dtype(self.precision))

    def targets(self, batch: Batch) -> Tensor:
        return self.images.gather_labels(batch.indices)

    def agree_on_types(self, segment: nn.Module) -> None:
        """Find out, from left to right, in which types features come in and go out: autocast decides, layer by layer.

        Evaluated on zeros, `segment` draws no random number and counts no batch.
        """
        number = torch.empty((), dtype=torch.long, device=self.device)
        self.input_type = weight_dtype(self.precision)
        if not self.is_first:
            dist.recv(number, self.rank - 1)
            self.input_type = _TYPES[int(number)]
        features = torch.zeros(1, *self.task.start_shape, dtype=self.input_type, device=self.device)
        with torch.no_grad(), autocast(self.precision, self.device):
            self.output_type = segment.eval()(features).dtype
        segment.train()
        if not self.is_last:
            dist.send(number.fill_(_TYPES.index(self.output_type)), self.rank + 1)

    def send_features(self, output: Tensor) -> tuple[Tensor, dist.Work]:
        """Start to send the segment's output to the right: what must live until it has left, and when it has."""
        output = output.contiguous()
        work = dist.isend(output, self.rank + 1)
        assert work is not None
        return output, work

    def ask_for_features(self) -> tuple[Tensor, dist.Work]:
        """Start to receive what the left segment sends: a tensor [batch, *shape] to be filled, and when it is."""
        shape = (self.task.train.batch_size, *self.task.start_shape)
        features = torch.empty(shape, dtype=self.input_type, device=self.device)
        work = dist.irecv(features, self.rank - 1)
        assert work is not None
        return features, work
