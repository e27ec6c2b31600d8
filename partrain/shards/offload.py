"""What a forward pass leaves for the backward one, out of the device's way."""

from collections.abc import Callable

import torch
from torch import Tensor


class ActivationOffload:
    """Moves what autograd saves to host memory; weights are not saved, but found again where their shard then lies.

    torch's own `save_on_cpu` would save weights too, and as they were where they were. On a CPU what is kept is copied both
    ways all the same, to see what that costs.

    `bytes_now` gives the shard's bytes, which weights are views into.
    """

    def __init__(self, bytes_now: Callable[[], Tensor]) -> None:
        self._bytes_now = bytes_now
        self._storage = bytes_now().untyped_storage()._cdata

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """For the forward pass."""
        return torch.autograd.graph.saved_tensors_hooks(self._put_away, self._bring_back)

    def _put_away(self, tensor: Tensor) -> object:
        if tensor.untyped_storage()._cdata == self._storage:
            return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
        device = tensor.device
        if device.type == "cpu":
            return tensor.detach().clone(memory_format=torch.preserve_format), device
        return tensor.detach().to("cpu"), device

    def _bring_back(self, kept: object) -> Tensor:
        assert isinstance(kept, tuple)
        if len(kept) == 4:
            dtype, shape, stride, offset = kept
            return self._bytes_now().view(dtype).as_strided(shape, stride, offset)
        tensor, device = kept
        return tensor.to(device) if device.type != "cpu" else tensor.clone()
