"""Fully sharded: PyTorch's FSDP2. Every process has a shard of each weight, and gathers a layer while it computes it."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from partrain.strategies.data_parallel import ReplicaTraining

_MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FullySharded(ReplicaTraining):
    """Every layer with weights is sharded on its own. In bf16, those that autocast computes in it are gathered in it."""

    @property
    def can_fuse(self) -> bool:
        return self.task.train.optimizer != "sgd"

    def build(self) -> nn.Module:
        model = super().build().to(memory_format=torch.contiguous_format)  # FSDP shards no other layout
        mesh = init_device_mesh(self.device.type, (self.num_ranks,))
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in list(model.modules()):
            if layer is not model and any(True for _ in layer.parameters(recurse=False)):
                reduced = self.precision == "bf16" and isinstance(layer, _MATRIX_LAYERS)
                fully_shard(layer, mesh=mesh, mp_policy=half if reduced else MixedPrecisionPolicy())
        fully_shard(model, mesh=mesh)
        self.wrapped = model
        return model

    def weights(self) -> dict[str, Tensor]:
        """Gathered from all, for the first process."""
        whole = {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            for name, tensor in self.model.state_dict().items()
        }
        return whole if self.rank == 0 else {}
