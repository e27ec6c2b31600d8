"""A training's tensors by name, as a checkpoint keeps them: weights and optimiser state, of sharded ones the local part."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """What of `tensor` is in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """What `tensors` take in this process."""
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """All that `optimizer` keeps from step to step."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def weights_state(model: nn.Module) -> dict[str, Tensor]:
    """Its weights and buffers; what modules share is there under every name of it, as a copy, which files ask for."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        held = local(tensor.detach())
        found[f"model.{name}"] = held.clone() if id(tensor) in seen else held
        seen.add(id(tensor))
    return found


def assign_weights(tensors: Mapping[str, Tensor], model: nn.Module, strict: bool = True) -> None:
    """Let `model`'s weights be `tensors`, by their names; a parameter that several modules share stays one."""
    before = dict(model.named_parameters(remove_duplicate=False))
    model.load_state_dict(tensors, strict=strict, assign=True)
    shared: dict[int, nn.Parameter] = {}
    for name, parameter in before.items():
        if name in tensors:
            shared.setdefault(id(parameter), model.get_parameter(name))
    for name, parameter in before.items():
        if id(parameter) in shared:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, shared[id(parameter)])


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer.{key}.{name}": local(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def load_weights(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Put what `weights_state` gave back into `model`."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            local(tensor).copy_(tensors[f"model.{name}"])


def load_optimizer(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put what `optimizer_state` gave back into `optimizer`, which is over `model`'s parameters."""
    parameters = dict(model.named_parameters())
    for place, value in tensors.items():
        kind, _, rest = place.partition(".")
        if kind == "optimizer":
            key, _, name = rest.partition(".")
            optimizer.state[parameters[name]][key] = _like(parameters[name], value)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` laid out as `parameter` is, which fused optimisers rely on, unless it is but a count of steps."""
    if value.shape != local(parameter).shape:
        return value
    if isinstance(parameter, DTensor):
        shard = torch.empty_like(local(parameter)).copy_(value)
        mesh, placements = parameter.device_mesh, parameter.placements
        return DTensor.from_local(shard, mesh, placements, shape=parameter.shape, stride=parameter.stride())
    return torch.empty_like(parameter).copy_(value)
