"""Networks built without memory: their construction is recorded, and each tensor is initialised when it is needed.

A network is constructed from fake tensors, which have a shape and no memory. A tape records every operation that makes
or fills one of them. The process of a segment later replays the recorded operations for its own tensors alone.

PyTorch's meta device cannot replace this, since functions of `torch.nn.init` skip its tensors. Here each call of such a
function is recorded as one operation, because some of them read values, which fake tensors do not have.

The random numbers of a tensor depend on the seed and its name. So every cutting of a network starts from the same
weights as the uncut one, on every device, and the initialisation is the one that the network's constructor asks for.
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

TORCH_PATCH_LOCK = threading.RLock()
"""The lock on what is patched in torch for all threads while a network is recorded, traced or replayed.

Recording replaces functions of `torch.nn.init`, tracing replaces methods of `nn.Module`, and replaying sets the global
random state. A thread that computes with modules while another may do any of these holds the lock as well.
"""


def record_network(build: Callable[[], nn.Module]) -> tuple[nn.Module, "InitTape"]:
    """Build a network of fake tensors, which have no memory.

    Args:
        build: Function that constructs the network.

    Returns:
        The network, and the tape from which `materialise` initialises its tensors.

    Raises:
        UserError: If the constructor reads the value of a tensor, which a fake tensor does not have.
    """
    tape = InitTape()
    try:
        with TORCH_PATCH_LOCK, tape.fake_mode, tape, _recorded_initialisers(tape):
            return build(), tape
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UserError(
            f"network: its constructor reads the value of a tensor ({error}). Compute that value without torch."
        ) from None


def materialise(module: nn.Module, tape: "InitTape", seed: int, device: torch.device | str = "cpu") -> None:
    """Replace the fake tensors of a recorded network, or of a part of it, by initialised ones, in place.

    Tensors that are real already stay. Each new one depends on the seed and its name alone. A tensor that several
    modules share is made once and stays shared.

    Args:
        module: A recorded network, or a part of it that uses the network's own names.
        tape: The tape of that network.
        seed: Seed of the training.
        device: Device of the new tensors.
    """
    made: dict[int, Tensor] = {}  # by the id of the fake tensor
    for prefix, owner in module.named_modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if not isinstance(tensor, FakeTensor):
                    continue
                if id(tensor) not in made:
                    tensor_seed = derive_seed(seed, "initial", f"{prefix}.{name}" if prefix else name)
                    made[id(tensor)] = _initialise(tensor, tape, tensor_seed, device)
                tensors[name] = made[id(tensor)]


def _initialise(fake: FakeTensor, tape: "InitTape", seed: int, device: torch.device | str) -> Tensor:
    """Return the parameter or buffer on `device` that `fake` stands for."""
    with TORCH_PATCH_LOCK:
        tensor = tape.replay(fake, seed).to(device)
    return nn.Parameter(tensor, fake.requires_grad) if isinstance(fake, nn.Parameter) else tensor


@dataclass(frozen=True)
class _RecordedCall:
    """A call of an operation, with fake tensors among its arguments and results."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def all_tensors(self) -> list[Tensor]:
        """Return the tensors among arguments and results."""
        return _tensors_in((self.args, self.kwargs, self.result))

    def written_tensors(self) -> list[Tensor]:
        """Return the results, which for in-place operations are the changed arguments themselves."""
        return _tensors_in(self.result)


def _tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dictionaries."""
    leaves, _ = tree_flatten(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def storage_id(tensor: Tensor) -> int:
    """Return a number that is the same for all views of one storage."""
    return tensor.untyped_storage()._cdata


class InitTape(TorchDispatchMode):
    """A record of every operation by which a constructor makes and fills tensors, to be repeated for one of them.

    Attributes:
        fake_mode: The mode in which the network's fake tensors are made, also needed to compute with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake_mode = FakeTensorMode()
        self._calls: list[_RecordedCall] = []
        self._writers: dict[int, list[int]] = {}
        """The numbers of the calls that wrote to a storage, by the storage's id."""

    # ---- Recording.

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._append(_RecordedCall(func, args, kwargs, result))
        return result

    def record_as_one_call(self, initialiser: Callable[..., Any]) -> Callable[..., Any]:
        """Return a replacement of `initialiser` that only records its call.

        Args:
            initialiser: A function whose first argument is the tensor that it fills and returns.
        """

        def record(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self._append(_RecordedCall(initialiser, (tensor, *args), kwargs, tensor))
            return tensor

        return record

    def _append(self, call: _RecordedCall) -> None:
        for tensor in call.written_tensors():
            self._writers.setdefault(storage_id(tensor), []).append(len(self._calls))
        self._calls.append(call)

    # ---- Replaying.
    #
    #   recorded:  [0] a = empty(64, 64)   [1] b = empty(8)   [2] normal_(a)
    #   a needs calls 0 and 2, which are done again with real tensors in place of the fake ones.

    def replay(self, target: Tensor, seed: int) -> Tensor:
        """Return a real tensor on the CPU with the values that the constructor gave to `target`, a fake tensor.

        Args:
            target: The fake tensor.
            seed: Seed of the random numbers that the recorded operations draw.
        """
        real: dict[int, Tensor] = {}  # by the id of the fake tensor
        real_storages: dict[int, Tensor] = {}  # by the id of the fake tensor's storage: a tensor in the real storage

        def to_real(value: Any) -> Any:
            if not isinstance(value, FakeTensor):
                return value
            return real[id(value)] if id(value) in real else _same_view(value, real_storages[storage_id(value)])

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            # torch.manual_seed would seed accelerators too, or note for each call that it has to.
            torch.default_generator.manual_seed(seed)
            for call in self._calls_needed_for(target):
                result = call.function(*tree_map(to_real, call.args), **tree_map(to_real, call.kwargs))
                for fake, tensor in zip(call.written_tensors(), _tensors_in(result), strict=True):
                    real[id(fake)] = tensor
                    real_storages.setdefault(storage_id(fake), tensor)
            return _same_view(target, real_storages[storage_id(target)])

    def _calls_needed_for(self, target: Tensor) -> list[_RecordedCall]:
        """Return the calls that `target`'s values depend on, in the order in which they were recorded."""
        needed: set[int] = set()
        seen: set[int] = set()
        waiting = [storage_id(target)]
        while waiting:
            storage = waiting.pop()
            if storage in seen:
                continue
            seen.add(storage)
            for number in self._writers.get(storage, ()):
                needed.add(number)
                waiting.extend(storage_id(tensor) for tensor in self._calls[number].all_tensors())
        return [self._calls[number] for number in sorted(needed)]


def _same_view(fake: Tensor, base: Tensor) -> Tensor:
    """Return a view of `base`'s storage with the shape, strides and offset of `fake`."""
    return base.detach().as_strided(fake.size(), fake.stride(), fake.storage_offset())


@contextmanager
def _recorded_initialisers(tape: InitTape) -> Iterator[None]:
    """Replace the functions of `torch.nn.init` that fill a tensor, so that the tape records each call as one."""
    originals = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and name[0] != "_"}
    try:
        for name, function in originals.items():
            setattr(nn.init, name, tape.record_as_one_call(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(nn.init, name, function)
