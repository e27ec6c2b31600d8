"""The tensors of a training, laid out in host memory as flat bytes, one file for each shard.

The training's own parameters, buffers and optimiser state become views into these files. So a worker that writes a shard
back has updated the training, and checkpoints are written by the code that writes them for any training.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from partrain.networks import Chain, network_settings_from_dict
from partrain.shards.host import map_file
from partrain.shards.layout import ShardLayout
from partrain.shards.messages import ShardSpec
from partrain.shards.partitioner import CutNames
from partrain.training.optimization import moment_names
from partrain.training.segment import SegmentTraining


def shard_layouts(training: SegmentTraining, cuts: Iterable[CutNames]) -> list[ShardLayout]:
    """Return where each shard's tensors are in its bytes.

    Args:
        training: The training of the whole model.
        cuts: The start and stop of each shard.
    """
    task = training.task
    chain = Chain.build(network_settings_from_dict(task.network), task.image_shape, task.num_classes)
    positions = {cut.name: cut for cut in chain.cuts}
    layouts = []
    for start, stop in cuts:
        shard = chain.extract_segment(positions.get(start or ""), positions.get(stop or ""))
        layouts.append(_layout(training, list(shard.state_dict())))
    return layouts


def _layout(training: SegmentTraining, names: Sequence[str]) -> ShardLayout:
    """Return the layout of a shard whose parameters and buffers have these names.

    A parameter that several modules share has several names, and bytes under the first of them only.
    """
    model = training.model
    parameters = dict(model.named_parameters())
    state = model.state_dict()
    first_names = {id(parameter): name for name, parameter in parameters.items()}
    all_parameters = dict(model.named_parameters(remove_duplicate=False))
    shared = {name: first_names[id(tensor)] for name, tensor in all_parameters.items() if name not in parameters}

    own_parameters = {name: parameters[name].detach() for name in names if name in parameters}
    aliases = {name: shared[name] for name in names if name in shared}
    buffers = {name: state[name] for name in names if name not in own_parameters | aliases}
    return ShardLayout.from_tensors(own_parameters, buffers, _optimizer_state(training, own_parameters), aliases)


def flat_bytes(training: SegmentTraining, layout: ShardLayout) -> Tensor:
    """Return a copy of a shard's tensors as bytes [layout.num_bytes]."""
    data = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    state = training.model.state_dict()
    for name, slot in layout.weights.items():
        slot.view(data).copy_(state[name])
    names = dict.fromkeys(path.rpartition("/")[0] for path in layout.optimizer_state)
    for path, tensor in _optimizer_state(training, names).items():
        layout.optimizer_state[path].view(data).copy_(tensor)
    return data


def move_to_files(training: SegmentTraining, shards: Iterable[ShardSpec]) -> None:
    """Copy the training's tensors into the shards' files, and make the training use those from now on."""
    for shard in shards:
        data = map_file(shard.file)
        weights = {name: slot.view(data) for name, slot in shard.layout.weights.items()}
        state = {path: slot.view(data) for path, slot in shard.layout.optimizer_state.items()}
        _move_optimizer_state(training, weights, state)
        _move_weights(training, weights)


def _move_optimizer_state(
    training: SegmentTraining, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Copy the optimiser's state of a shard's weights into `state`, and make the optimiser use that."""
    parameters = dict(training.model.named_parameters())
    names = [name for name in weights if name in parameters]
    for path, tensor in _optimizer_state(training, names).items():
        name, _, key = path.rpartition("/")
        training.optimizer.state[parameters[name]][key] = state[path].copy_(tensor)


def _move_weights(training: SegmentTraining, weights: Mapping[str, Tensor]) -> None:
    """Copy a shard's parameters and buffers into `weights`, and make the model use those."""
    model = training.model
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    for name, view in weights.items():
        if name in parameters:
            parameters[name].data = view.copy_(parameters[name].detach())
        elif name in buffers:
            module, _, attribute = name.rpartition(".")
            model.get_submodule(module)._buffers[attribute] = view.copy_(buffers[name])


def _optimizer_state(training: SegmentTraining, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the optimiser's state of the parameters of these names, by `<name>/<key>`. State not yet made is zero."""
    parameters = dict(training.model.named_parameters())
    has_step_count = training.task.train.optimizer != "sgd"
    state = {}
    for name in names:
        parameter = parameters[name]
        if not parameter.requires_grad:
            continue
        present = training.optimizer.state[parameter]
        for key in moment_names(training.task.train):
            state[f"{name}/{key}"] = present.get(key, torch.zeros_like(parameter.detach()))
        if has_step_count:
            state[f"{name}/step"] = torch.as_tensor(present.get("step", 0.0), dtype=torch.float32)
    return state
