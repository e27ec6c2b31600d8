"""Fully sharded: PyTorch's FSDP2. Every process has a shard of each weight, and gathers a layer while it computes it."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from partrain.strategies.data_parallel import ReplicaTraining

_MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FullySharded(ReplicaTraining):
    """A process with a shard of every layer's weights.

    In bf16, the weights of layers that autocast computes in bf16 are gathered in bf16.
    """

    @property
    def wrapped_model(self) -> nn.Module:
        """Return the sharded network itself, which FSDP lets gather weights and average gradients."""
        return self.model

    @property
    def can_fuse_optimizer(self) -> bool:
        """Return whether PyTorch has a fused optimiser for sharded weights, which it has not for SGD."""
        return self.task.train.optimizer != "sgd"

    def build_model(self) -> nn.Module:
        """Return the network with every layer sharded on its own."""
        model = super().build_model().to(memory_format=torch.contiguous_format)  # FSDP shards no other layout.
        mesh = init_device_mesh(self.device.type, (self.num_ranks,))
        for layer in list(model.modules()):
            has_weights = next(layer.parameters(recurse=False), None) is not None
            if layer is not model and has_weights:
                fully_shard(layer, mesh=mesh, mp_policy=self.precision_policy(layer))
        fully_shard(model, mesh=mesh)
        return model

    def precision_policy(self, layer: nn.Module) -> MixedPrecisionPolicy:
        """Return in which precision a layer's weights are gathered and its gradients averaged."""
        if self.precision == "bf16" and isinstance(layer, _MATRIX_LAYERS):
            return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        return MixedPrecisionPolicy()

    def weights(self) -> dict[str, Tensor]:
        """Return the weights gathered from all processes by name in the first process, and none in the others."""
        gathered = {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            for name, tensor in self.model.state_dict().items()
        }
        return gathered if self.rank == 0 else {}
