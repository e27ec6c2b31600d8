"""What strategies with a segment per process have in common: neighbours, and tensors sent between them."""

import torch
import torch.distributed as dist
from torch import Tensor

from partrain.data.batches import Batch
from partrain.optimization import weight_type
from partrain.strategies.rank import RankTraining

_TYPES = (torch.bfloat16, torch.float32, torch.float64)


class StageTraining(RankTraining):
    """Stage `rank` of `num_ranks`; the first is fed images, the last compares with labels."""

    _types_agreed = False
    _features_type: torch.dtype | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        return self.rank == self.num_ranks - 1

    def first_features(self, batch: Batch) -> Tensor:
        features, _ = self.images.gather(batch.indices)
        return features.to(weight_type(self.precision))

    def targets(self, batch: Batch) -> Tensor:
        return self.images.labels(batch.indices)

    def send_features(self, output: Tensor) -> dist.Work:
        """Start to send the segment's output to the right; the first time its type is sent ahead."""
        output = output.contiguous()
        if not self._types_agreed:
            dist.send(torch.tensor(_TYPES.index(output.dtype), device=self.device), self.rank + 1)
            self._types_agreed = True
        self._leaving = output  # must live until it has left
        work = dist.isend(output, self.rank + 1)
        assert work is not None
        return work

    def ask_for_features(self) -> tuple[Tensor, dist.Work]:
        """Start to receive what the left segment sends: a tensor to be filled, and when it is."""
        if self._features_type is None:
            number = torch.empty((), dtype=torch.long, device=self.device)
            dist.recv(number, self.rank - 1)
            self._features_type = _TYPES[int(number)]
        shape = (self.task.train.batch_size, *self.task.start_shape)
        features = torch.empty(shape, dtype=self._features_type, device=self.device)
        work = dist.irecv(features, self.rank - 1)
        assert work is not None
        return features, work

    def receive_features(self) -> Tensor:
        """What the left segment sends, [batch, *shape]."""
        features, arrival = self.ask_for_features()
        arrival.wait()
        return features
