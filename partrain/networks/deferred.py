"""Networks built without memory: recorded first, then made real layer by layer.

A network is constructed from fake tensors, which know their shape and own no memory, while a tape records every
operation that makes or fills one of them; a function of `torch.nn.init` is one operation, since some look at values.
(Torch's meta device would do, but those functions skip meta tensors.) A segment's process later replays the recorded
operations for its own tensors alone. The random numbers of a tensor come from (seed, its name), so any cutting of a
network starts from the same weights as the uncut one, on every device, and the initialisation is the one the network's
own constructor asks for.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from partrain.errors import UserError
from partrain.rng import derive_seed

# Recording, tracing and replaying change what all of torch does, in every thread, until they are done: whoever does one of
# them, or computes a module while another thread may, holds this.
TORCH_PATCH_LOCK = threading.RLock()


@dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def tensors(self) -> list[Tensor]:
        leaves, _ = tree_flatten((self.args, self.kwargs, self.result))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def writes(self) -> list[Tensor]:
        """Results, which for in-place operations are the changed arguments themselves."""
        return [leaf for leaf in tree_flatten(self.result)[0] if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class InitTape(TorchDispatchMode):
    """Records what a constructor does to tensors; `replay` does it again for one of them, for real."""

    def __init__(self) -> None:
        super().__init__()
        self.fake_mode = FakeTensorMode()
        self._calls: list[_Call] = []
        self._writers: dict[int, list[int]] = {}  # storage -> numbers of the calls that wrote to it

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._append(_Call(func, args, kwargs, result))
        return result

    def _append(self, call: _Call) -> None:
        for tensor in call.writes():
            self._writers.setdefault(_storage(tensor), []).append(len(self._calls))
        self._calls.append(call)

    def record_whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, an initialiser whose first argument is the tensor it fills, taped as one operation."""

        def taped(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self._append(_Call(function, (tensor, *args), kwargs, tensor))
            return tensor

        return taped

    def replay(self, target: Tensor, seed: int) -> Tensor:
        """The values the constructor gave `target`, a fake tensor, on the CPU, with random numbers from `seed`."""
        real: dict[int, Tensor] = {}

        def realise(value: Any) -> Any:
            if isinstance(value, FakeTensor):
                return real[id(value)] if id(value) in real else _alias(value, real_storages[_storage(value)])
            return value

        real_storages: dict[int, Tensor] = {}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for call in self._calls_behind(target):
                result = call.function(*tree_map(realise, call.args), **tree_map(realise, call.kwargs))
                results = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
                for fake, made in zip(call.writes(), results, strict=True):
                    real[id(fake)] = made
                    real_storages.setdefault(_storage(fake), made)
            return _alias(target, real_storages[_storage(target)])

    def _calls_behind(self, target: Tensor) -> list[_Call]:
        """The calls that `target`'s values depend on, in the order they were made."""
        kept: set[int] = set()
        seen: set[int] = set()
        waiting = [_storage(target)]
        while waiting:
            storage = waiting.pop()
            if storage in seen:
                continue
            seen.add(storage)
            for index in self._writers.get(storage, ()):
                kept.add(index)
                waiting.extend(_storage(tensor) for tensor in self._calls[index].tensors())
        return [self._calls[index] for index in sorted(kept)]


def _alias(fake: Tensor, base: Tensor) -> Tensor:
    """The view of `base`'s storage that `fake` is of its own."""
    return base.detach().as_strided(fake.size(), fake.stride(), fake.storage_offset())


@contextmanager
def _whole_initialisers(tape: InitTape) -> Iterator[None]:
    originals = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and name[0] != "_"}
    try:
        for name, function in originals.items():
            setattr(nn.init, name, tape.record_whole(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(nn.init, name, function)


def record_network(build: Callable[[], nn.Module]) -> tuple[nn.Module, InitTape]:
    """Run `build` with fake tensors; returns its module, which holds no memory, and the tape that can make it real.

    Raises:
        ValueError: the constructor looks at the value of a tensor, which a fake tensor does not have.
    """
    tape = InitTape()
    try:
        with TORCH_PATCH_LOCK, tape.fake_mode, tape, _whole_initialisers(tape):
            return build(), tape
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UserError(
            f"network: its constructor looks at tensor values ({error}); compute them without torch"
        ) from None


def materialise(module: nn.Module, tape: InitTape, seed: int, device: torch.device | str = "cpu") -> None:
    """Give `module`, a recorded network or a part of it with the network's own names, real initial weights in place.

    Only tensors that are still fake are made. Each depends on (`seed`, its name) alone; one that several modules share is
    made once, and stays one.
    """
    shared: dict[int, Tensor] = {}
    for prefix, owner in module.named_modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if not isinstance(tensor, FakeTensor):
                    continue
                if id(tensor) not in shared:
                    own = derive_seed(seed, "initial", f"{prefix}.{name}" if prefix else name)
                    with TORCH_PATCH_LOCK:
                        made = tape.replay(tensor, own).to(device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    shared[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if is_parameter else made
                tensors[name] = shared[id(tensor)]
