"""Data parallel: PyTorch's DistributedDataParallel. Every process has the whole network and a share of each batch."""

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from partrain.data.batches import Batch
from partrain.device import is_gpu
from partrain.strategies.rank import RankTraining
from partrain.training.loop import Step
from partrain.training.optimization import autocast, weight_dtype


class ReplicaTraining(RankTraining):
    """A step on this process's share of the batch; gradients are averaged over the group as `wrapped` is made to.

    Its losses and decode accuracies are of its own shares.
    """

    wrapped: nn.Module

    def share(self, batch: Batch) -> Tensor:
        """The indices of this process's images: the batch in equal pieces, in the order of ranks."""
        size = len(batch.indices) // self.num_ranks
        return batch.indices[self.rank * size : (self.rank + 1) * size]

    def forward_backward(self, step: Step) -> Tensor:
        features, targets = self.images.gather(self.share(step.batch))
        with autocast(self.precision, self.device):
            output = self.wrapped(features.to(weight_dtype(self.precision)))
        loss = self.output.loss(output, targets)
        self.update_metrics(output, targets, step)
        del output
        loss.backward()
        return loss


class DataParallel(ReplicaTraining):
    """All replicas hold the same weights, so that the first one's are the network's."""

    @property
    def owns_weights(self) -> bool:
        return self.rank == 0

    def build(self) -> nn.Module:
        model = super().build()
        devices = [self.device] if is_gpu(self.device) else None
        self.wrapped = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        return model
