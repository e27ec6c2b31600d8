"""Activation offloading: host memory instead of the device holds what a forward pass saves for the backward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from partrain.device import is_cpu


@dataclass(frozen=True)
class _WeightReference:
    """A view into the shard's bytes, to be made again from wherever these are at the backward pass."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    storage_offset: int


@dataclass(frozen=True)
class _OffloadedTensor:
    """A tensor in host memory, and the device that it came from."""

    host: Tensor
    device: torch.device


class ActivationOffload:
    """A pair of autograd hooks: one moves saved tensors to host memory, the other moves them back.

    PyTorch's `save_on_cpu` would copy weights too, and keep them as they were before other units moved their shard.
    Here a weight is saved as a reference, and taken from the shard's bytes again. On a CPU tensors are copied as well,
    so that the cost of offloading shows.

    Args:
        shard_bytes: Returns the bytes that the shard's weights are views into, [bytes], at the time of the call.
    """

    def __init__(self, shard_bytes: Callable[[], Tensor]) -> None:
        self._shard_bytes = shard_bytes
        self._shard_storage = shard_bytes().untyped_storage()._cdata

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return the context manager to run the forward pass in."""
        return torch.autograd.graph.saved_tensors_hooks(self._offload, self._restore)

    def _offload(self, tensor: Tensor) -> _WeightReference | _OffloadedTensor:
        if tensor.untyped_storage()._cdata == self._shard_storage:
            return _WeightReference(tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        if is_cpu(tensor.device):
            host = tensor.detach().clone(memory_format=torch.preserve_format)
        else:
            host = tensor.detach().to("cpu")
        return _OffloadedTensor(host, tensor.device)

    def _restore(self, saved: _WeightReference | _OffloadedTensor) -> Tensor:
        if isinstance(saved, _WeightReference):
            flat = self._shard_bytes().view(saved.dtype)
            return flat.as_strided(saved.shape, saved.stride, saved.storage_offset)
        if is_cpu(saved.device):
            return saved.host.clone()
        return saved.host.to(saved.device)
