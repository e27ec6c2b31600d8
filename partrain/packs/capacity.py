"""How many trainings of a shape fit on a device: bytes of a dry step, against what the device has to give."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it, from when they are made to when they are freed: `peak`.

    `ignored`: tensors that are not counted, should they be met.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live = {tensor.untyped_storage()._cdata for tensor in ignored}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._live:
            return
        self._live.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Need:
    """Bytes that a stack takes: `fixed`, and as much again for `each` training."""

    fixed: int
    each: int

    @classmethod
    def through(cls, few: tuple[int, int], more: tuple[int, int]) -> "Need":
        """Of two stacks: how many trainings, and their peak."""
        each = max(1, (more[1] - few[1]) // (more[0] - few[0]))
        return cls(max(0, few[1] - few[0] * each), each)

    def capacity(self, budget: int) -> int:
        """How many trainings fit into `budget` bytes."""
        return max(0, (budget - self.fixed) // self.each)
