"""The memory layout of a shard: its tensors one after another in flat bytes, so that one copy moves all of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes; no dtype needs more, and neither do vector instructions


@dataclass(frozen=True)
class TensorSlot:
    """The part of a flat buffer that holds one tensor, and the tensor's type and shape."""

    offset: int
    """The byte of the buffer at which the tensor begins."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Return how many bytes the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: Tensor) -> Tensor:
        """Return the tensor as a view into `buffer`, which holds bytes.

        The view shares no autograd version counter with the buffer, so in-place changes of other tensors there do not
        invalidate it.
        """
        flat = buffer.data[self.offset : self.offset + self.num_bytes].view(self.dtype)
        return flat.as_strided(self.shape, self.stride, flat.storage_offset())


@dataclass(frozen=True)
class CrossingSlots:
    """The places of the tensors between two shards, in a file of their own."""

    output: TensorSlot
    """The output of the left shard, at the file's beginning."""
    gradient: TensorSlot
    """The gradient of that output, behind it."""

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""
        return self.gradient.offset + align(self.gradient.num_bytes)


@dataclass(frozen=True)
class ShardLayout:
    """The slots of all tensors of a shard.

    A forward pass needs weights alone, and so they are first:

        │ parameters │ buffers │ optimiser state │
        └──── forward_bytes ───┘                 │
        └─────────────── num_bytes ──────────────┘
    """

    weights: dict[str, TensorSlot]
    """Parameters and buffers, by their names in the model."""
    optimizer_state: dict[str, TensorSlot]
    """The optimiser's tensors, by "<parameter>/<key>"."""
    buffer_range: tuple[int, int]
    """The first byte of the module's buffers, which a forward pass may change, and the byte after the last."""
    forward_bytes: int
    """How many bytes from the start a forward pass needs."""
    num_bytes: int

    @classmethod
    def from_tensors(
        cls,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        aliases: Mapping[str, str] | None = None,
    ) -> "ShardLayout":
        """Lay tensors out one after another.

        Args:
            parameters: The shard's parameters, by name.
            buffers: The shard's buffers, by name.
            state: The optimiser's tensors, by "<parameter>/<key>".
            aliases: Further names of parameters that modules share, each with the name in `parameters`.
        """
        parameter_slots, buffers_begin = _assign_slots(parameters, 0)
        buffer_slots, forward_bytes = _assign_slots(buffers, buffers_begin)
        state_slots, num_bytes = _assign_slots(state, forward_bytes)
        alias_slots = {alias: parameter_slots[name] for alias, name in (aliases or {}).items()}
        return cls(
            weights=parameter_slots | buffer_slots | alias_slots,
            optimizer_state=state_slots,
            buffer_range=(buffers_begin, forward_bytes),
            forward_bytes=forward_bytes,
            num_bytes=num_bytes,
        )

    def needed_bytes(self, *, is_backward: bool) -> int:
        """Return how many bytes from the start a unit needs. A backward pass also updates weights, and needs all."""
        return self.num_bytes if is_backward else self.forward_bytes

    def changed_range(self, *, is_backward: bool) -> slice:
        """Return the bytes that a unit changes: all with a backward pass, the module's buffers without one."""
        return slice(0, self.num_bytes) if is_backward else slice(*self.buffer_range)


def _assign_slots(tensors: Mapping[str, Tensor], begin: int) -> tuple[dict[str, TensorSlot], int]:
    """Return a slot for each tensor, from byte `begin` on, and the first byte after all of them."""
    slots = {}
    for name, tensor in tensors.items():
        slots[name] = TensorSlot(begin, tensor.dtype, tuple(tensor.shape), tensor.stride())
        begin += align(tensor.numel() * tensor.element_size())
    return slots, begin


def align(num_bytes: int) -> int:
    """Return `num_bytes`, rounded up to the next multiple of 64."""
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
