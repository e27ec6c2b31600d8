"""The tensors of a training by name, for its checkpoint: weights and optimiser state.

Tensors that FSDP shards over processes (DTensor) are saved by each process as the part that it holds.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


def weights_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights and buffers as `model.<name>`.

    A tensor that modules share is there under every name, as a copy, since files of tensors allow no sharing.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        part = local_part(tensor.detach())
        tensors[f"model.{name}"] = part.clone() if id(tensor) in seen else part
        seen.add(id(tensor))
    return tensors


def load_weights(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy the tensors that `weights_state` returned into `model`."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            local_part(tensor).copy_(tensors[f"model.{name}"])


def assign_weights(tensors: Mapping[str, Tensor], model: nn.Module, *, strict: bool = True) -> None:
    """Make `tensors` the weights of `model`, by name. A parameter that several modules share stays shared.

    Args:
        tensors: The weights; they are used as they are, not copied.
        model: The model, which may be without memory (on the meta device).
        strict: Whether every weight of the model must be among `tensors`.
    """
    old_parameters = dict(model.named_parameters(remove_duplicate=False))
    model.load_state_dict(tensors, strict=strict, assign=True)
    new_parameters: dict[int, nn.Parameter] = {}
    for name, old in old_parameters.items():
        if name in tensors:
            new_parameters.setdefault(id(old), model.get_parameter(name))
    for name, old in old_parameters.items():
        if id(old) in new_parameters:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, new_parameters[id(old)])


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `optimizer.<key>.<parameter name>`."""
    return {
        f"optimizer.{key}.{name}": local_part(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def load_optimizer(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the tensors that `optimizer_state` returned back into `optimizer`, which is over the model's parameters."""
    parameters = dict(model.named_parameters())
    for full_name, value in tensors.items():
        kind, _, rest = full_name.partition(".")
        if kind == "optimizer":
            key, _, name = rest.partition(".")
            optimizer.state[parameters[name]][key] = _laid_out_like(parameters[name], value)


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return state in the memory layout of its parameter, which fused optimisers rely on; a count stays as it is."""
    if value.shape != local_part(parameter).shape:
        return value
    if is_sharded(parameter):
        from torch.distributed.tensor import DTensor  # Importing it takes half a second, which others save.

        assert isinstance(parameter, DTensor)
        shard = torch.empty_like(local_part(parameter)).copy_(value)
        mesh, placements = parameter.device_mesh, parameter.placements
        return DTensor.from_local(shard, mesh, placements, shape=parameter.shape, stride=parameter.stride())
    return torch.empty_like(parameter).copy_(value)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield all tensors of the optimiser's state."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes `tensors` take in this process."""
    return sum(local_part(tensor).numel() * tensor.element_size() for tensor in tensors)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of `tensor` that this process holds: all of it unless it is sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def is_sharded(tensor: Tensor) -> bool:
    """Return whether `tensor` is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "to_local")
