"""Data parallel: PyTorch's DistributedDataParallel. Every process has the whole network and a share of each batch."""

from abc import abstractmethod
from pathlib import Path

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from partrain.data.batches import Batch
from partrain.device import is_cpu
from partrain.strategies.rank import RankTraining
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import autocast, weight_dtype


class ReplicaTraining(RankTraining):
    """A process that trains the whole network on its share of each batch, with gradients averaged over the group.

    Its losses and decode accuracies are those of its own shares.
    """

    @property
    @abstractmethod
    def wrapped_model(self) -> nn.Module:
        """Return the module that computes the network and averages its gradients over the group."""

    def forward_backward(self, step: Step) -> Tensor:
        """Compute the gradients for this process's share of a batch, averaged over the group, and return its loss."""
        features, targets = self.images.gather(self.share_of(step.batch))
        with autocast(self.precision, self.device):
            output = self.wrapped_model(features.to(weight_dtype(self.precision)))
        loss = self.output.loss(output, targets)
        self.update_metrics(output, targets, step)
        del output  # The backward pass could not free it otherwise.
        loss.backward()
        return loss

    def share_of(self, batch: Batch) -> Tensor:
        """Return the indices of this process's images: the batch in equal pieces, in the order of ranks."""
        size = len(batch.indices) // self.num_ranks
        return batch.indices[self.rank * size : (self.rank + 1) * size]


class DataParallel(ReplicaTraining):
    """A process with a replica of the network under DistributedDataParallel.

    All replicas have the same weights, so that the trained network is the first one's.
    """

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        super().__init__(folder, context, memory)
        devices = None if is_cpu(self.device) else [self.device]
        self._wrapped_model = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)

    @property
    def wrapped_model(self) -> nn.Module:
        """Return the network in DistributedDataParallel."""
        return self._wrapped_model

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in process 0 and none elsewhere: replicas hold equal weights, so one writes them."""
        return super().weights() if self.rank == 0 else {}
