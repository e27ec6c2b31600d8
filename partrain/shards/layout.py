"""Where a shard's tensors lie: one after another in flat bytes, so that a shard is copied as one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNED = 64  # bytes


@dataclass(frozen=True)
class TensorSlot:
    """A tensor's place: the byte it begins at, and what it is like."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor in `buffer`, which holds bytes. That others in it change is no concern of autograd's."""
        held = buffer.data[self.offset : self.offset + self.num_bytes].view(self.dtype)
        return held.as_strided(self.shape, self.stride, held.storage_offset())


@dataclass(frozen=True)
class ShardLayout:
    """The places of a shard's tensors by name: `weights` and buffers first, which are all that a forward pass needs,
    then the optimiser's `state`, by `<name>/<key>`.

    `forward_bytes`: up to the end of the weights. `buffers`: the first and last byte of what a forward pass changes.
    """

    weights: dict[str, TensorSlot]
    optimizer_state: dict[str, TensorSlot]
    buffer_range: tuple[int, int]
    forward_bytes: int
    num_bytes: int

    @classmethod
    def from_tensors(
        cls,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        aliases: Mapping[str, str] | None = None,
    ) -> "ShardLayout":
        """One after another. `aliases`: other names of parameters."""
        places, first = _place(parameters, 0)
        more, forward_bytes = _place(buffers, first)
        rest, num_bytes = _place(state, forward_bytes)
        also = {name: places[first_name] for name, first_name in (aliases or {}).items()}
        return cls(places | more | also, rest, (first, forward_bytes), forward_bytes, num_bytes)


def _place(tensors: Mapping[str, Tensor], begin: int) -> tuple[dict[str, TensorSlot], int]:
    places = {}
    for name, tensor in tensors.items():
        places[name] = TensorSlot(begin, tensor.dtype, tuple(tensor.shape), tensor.stride())
        begin += aligned(tensor.numel() * tensor.element_size())
    return places, begin


def aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
