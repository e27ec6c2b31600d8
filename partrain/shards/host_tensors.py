"""The tensors of a training, laid out in host memory as flat bytes, one file for each shard.

The training's own parameters, buffers and optimiser state become views into these files. So a worker that writes a shard
back has updated the training, and checkpoints are written by the code that writes them for any training.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from partrain.networks import NETWORKS, Chain
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
    chain = Chain.build(NETWORKS.from_dict(task.network), task.image_shape, task.num_classes)
    tensors = _TrainingTensors(training)
    layouts = []
    for start, stop in cuts:
        shard = chain.extract_segment(chain.cut_named(start), chain.cut_named(stop))
        layouts.append(tensors.layout(list(shard.state_dict())))
    return layouts


def copy_to_files(training: SegmentTraining, shards: Iterable[ShardSpec]) -> None:
    """Copy the training's tensors into the shards' files."""
    tensors = _TrainingTensors(training)
    for shard in shards:
        data, layout = map_file(shard.file), shard.layout
        for name, slot in layout.weights.items():
            slot.view(data).copy_(tensors.state[name])
        names = dict.fromkeys(path.rpartition("/")[0] for path in layout.optimizer_state)
        for path, tensor in tensors.optimizer_state(names).items():
            layout.optimizer_state[path].view(data).copy_(tensor)


def move_to_files(training: SegmentTraining, shards: Iterable[ShardSpec]) -> None:
    """Copy the training's tensors into the shards' files, and make the training use those from now on."""
    tensors = _TrainingTensors(training)
    for shard in shards:
        data = map_file(shard.file)
        weights = {name: slot.view(data) for name, slot in shard.layout.weights.items()}
        state = {path: slot.view(data) for path, slot in shard.layout.optimizer_state.items()}
        tensors.move_optimizer_state(weights, state)
        tensors.move_weights(weights)


class _TrainingTensors:
    """The tensors of a training by their names in its model, collected once for all of its shards.

    Args:
        training: The training of the whole model.
    """

    def __init__(self, training: SegmentTraining) -> None:
        model = training.model
        self.training = training
        self._parameters = dict(model.named_parameters())
        self._buffers = dict(model.named_buffers())
        first_names = {id(parameter): name for name, parameter in self._parameters.items()}
        all_parameters = dict(model.named_parameters(remove_duplicate=False))
        self._first_names = {
            name: first_names[id(parameter)]
            for name, parameter in all_parameters.items()
            if name not in self._parameters
        }
        """The first name of a parameter that several modules share, by each of its other names."""

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Return the model's parameters and buffers.

        This is not collected before it is used, since it would hold the memory of tensors that have been moved.
        """
        return self.training.model.state_dict()

    def layout(self, names: Sequence[str]) -> ShardLayout:
        """Return the layout of a shard whose parameters and buffers have these names.

        A parameter that several modules share has several names, and bytes under the first of them only.
        """
        parameters = {name: self._parameters[name].detach() for name in names if name in self._parameters}
        aliases = {name: self._first_names[name] for name in names if name in self._first_names}
        buffers = {name: self.state[name] for name in names if name not in parameters | aliases}
        return ShardLayout.from_tensors(parameters, buffers, self.optimizer_state(parameters), aliases)

    def optimizer_state(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the optimiser's state of these parameters, by `<name>/<key>`. State not yet made is zero."""
        train, optimizer = self.training.task.train, self.training.optimizer
        state = {}
        for name in names:
            parameter = self._parameters[name]
            if not parameter.requires_grad:
                continue
            present = optimizer.state[parameter]
            for key in moment_names(train):
                state[f"{name}/{key}"] = present.get(key, torch.zeros_like(parameter.detach()))
            if train.optimizer != "sgd":
                state[f"{name}/step"] = torch.as_tensor(present.get("step", 0.0), dtype=torch.float32)
        return state

    def move_optimizer_state(self, weights: Iterable[str], state: Mapping[str, Tensor]) -> None:
        """Copy the optimiser's state of the parameters among `weights` into `state`, and make the optimiser use that."""
        names = [name for name in weights if name in self._parameters]
        for path, tensor in self.optimizer_state(names).items():
            name, _, key = path.rpartition("/")
            self.training.optimizer.state[self._parameters[name]][key] = state[path].copy_(tensor)

    def move_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a shard's parameters and buffers into `weights`, and make the model use those."""
        for name, view in weights.items():
            if name in self._parameters:
                self._parameters[name].data = view.copy_(self._parameters[name].detach())
            elif name in self._buffers:
                module, _, attribute = name.rpartition(".")
                self.training.model.get_submodule(module)._buffers[attribute] = view.copy_(self._buffers[name])
