"""The memory of stacks: the bytes of a trial step, and how many trainings of one shape fit on a device."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytesMode(TorchDispatchMode):
    """A dispatch mode that counts the bytes of tensors made within it, from their creation until they are freed.

    Args:
        ignored: Tensors made before, which are not counted where operations return them or views of them.

    Attributes:
        live_bytes: The bytes of the counted tensors that exist now.
        peak_bytes: The largest number of bytes that existed at once.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._storages = {tensor.untyped_storage()._cdata for tensor in ignored}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that was not met before, until it is freed."""
        address = storage._cdata
        if address in self._storages:
            return
        self._storages.add(address)
        self.live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._remove, address, storage.nbytes())

    def _remove(self, address: int, num_bytes: int) -> None:
        """Count a freed storage no longer."""
        self._storages.discard(address)
        self.live_bytes -= num_bytes


@dataclass(frozen=True)
class StackMemory:
    """The memory of a stack of trainings as a line: a fixed part, and a part for each of its members."""

    fixed_bytes: int
    """Bytes that a stack of any size takes."""
    member_bytes: int
    """Bytes that each further training adds."""

    @classmethod
    def fit(cls, smaller: tuple[int, int], larger: tuple[int, int]) -> "StackMemory":
        """Return the line through two measurements, each the size of a stack and its peak in bytes."""
        (size, peak), (larger_size, larger_peak) = smaller, larger
        member_bytes = max(1, (larger_peak - peak) // (larger_size - size))
        return cls(max(0, peak - size * member_bytes), member_bytes)

    def max_members(self, budget: int) -> int:
        """Return how many trainings fit into `budget` bytes."""
        return max(0, (budget - self.fixed_bytes) // self.member_bytes)
