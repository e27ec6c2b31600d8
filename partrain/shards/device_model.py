"""A model in a worker: its shards, computed one unit at a time, forward and backward, as the whole model would be."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from partrain.boundaries.boundary import make_projections
from partrain.data.batches import Batch
from partrain.device import default_generator
from partrain.networks import NETWORKS, Chain
from partrain.networks.deferred import TORCH_PATCH_LOCK, materialise
from partrain.rng import seed_forward
from partrain.shards.layout import ShardLayout
from partrain.shards.messages import ModelSpec, ShardSpec, UnitRequest, UnitResult
from partrain.shards.offload import ActivationOffload
from partrain.training.diagnostics import collapse_warning
from partrain.training.endpoints import make_input, make_output
from partrain.training.optimization import autocast, make_optimizer, resolve_precision, weight_dtype
from partrain.training.progress import EpochMeter
from partrain.training.state import assign_weights


class UnitInputs(NamedTuple):
    """The tensors on the device that a unit is computed from."""

    buffer: Tensor
    """The shard's bytes, [bytes]."""
    features: Tensor | None = None
    """The output of the shard to the left, [batch, *shape]. None for a first shard, and where the unit needs none."""
    gradient: Tensor | None = None
    """The gradient of the shard's output, [batch, *shape]. None for units that begin with a forward pass."""


class UnitOutputs(NamedTuple):
    """The tensors on the device that a unit leaves for the shards beside its own."""

    output: Tensor | None
    """The shard's output, [batch, *shape], for the shard to the right. None after a backward pass."""
    features_gradient: Tensor | None
    """The gradient of the shard's input, [batch, *shape], for the shard to the left. None without one."""


@dataclass(frozen=True)
class _RunningUnit:
    """A unit that is being computed."""

    request: UnitRequest
    result: UnitResult
    """The result that the computation fills in."""
    shard: "DeviceShard"


class DeviceModel:
    """A model on a device, of which only the shards that are computed have memory there.

    Args:
        spec: The model and its shards.
        device: The device.
        shards_move: Whether a shard's bytes may be in another buffer at every unit.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, *, shards_move: bool) -> None:
        self.spec, self.device, self.shards_move = spec, device, shards_move
        task = spec.task
        self.precision = resolve_precision(task.train.precision, device)
        self.chain = Chain.build(NETWORKS.from_dict(task.network), task.image_shape, task.num_classes)
        self.between = make_projections(task.projections, task.num_classes, task.labels, task.seed, device)
        self.input = make_input(task, spec.folder, device)
        self.output = make_output(task, device)
        self.shards = [DeviceShard(self, shard) for shard in spec.shards]

    def compute(self, request: UnitRequest, result: UnitResult, inputs: UnitInputs) -> UnitOutputs:
        """Compute a unit: a forward pass through a shard, a backward pass, or both, then the shard's optimiser step.

        Args:
            request: The unit, and what the scheduler's process passes on from earlier units of the step.
            result: Filled in with what the scheduler's process needs to go on.
            inputs: The shard's bytes and the tensors of its neighbours.
        """
        with TORCH_PATCH_LOCK:  # A model that joins is traced in another thread meanwhile.
            return self._compute(_RunningUnit(request, result, self.shards[request.unit.shard]), inputs)

    def _compute(self, running: _RunningUnit, inputs: UnitInputs) -> UnitOutputs:
        request, shard, unit = running.request, running.shard, running.request.unit
        running.result.is_cold = not shard.is_built
        shard.bind(inputs.buffer)

        output = features = targets = None
        if unit.is_forward or not self.spec.keeps_activations:
            self._set_rng_state(request.rng_state)  # Random layers draw as in the shard's forward pass.
            if inputs.features is None:
                batch = Batch(unit.step, torch.from_numpy(request.indices).to(self.device))
                features, targets = self._sample(batch)
            else:
                features = inputs.features
                targets = None if request.targets is None else torch.from_numpy(request.targets)
        if unit.is_forward and unit.is_backward:
            self._forward_backward(running, features, targets)
        elif unit.is_forward:
            output = self._forward(running, features, targets)
        else:
            self._backward(shard, features, inputs.gradient)

        if unit.is_backward:
            shard.update_weights(request.learning_rate)
        if self.shards_move:
            shard.unbind()
        return UnitOutputs(output, shard.pop_features_gradient() if unit.is_backward else None)

    def _sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the input of the first shard, [batch, *shape], and the model's targets, for the images of `batch`."""
        features, targets = self.input.sample(batch)
        return features.to(weight_dtype(self.precision)), targets

    def _forward(self, running: _RunningUnit, features: Tensor | None, targets: Tensor | None) -> Tensor:
        """Run a shard before the last one forward, and return its output, [batch, *shape]."""
        assert features is not None
        if self.spec.keeps_activations:
            output = running.shard.forward_saving_activations(features)
        else:
            output = running.shard.forward_without_gradient(features)
        running.result.targets = None if targets is None else targets.cpu().numpy()
        running.result.rng_state = default_generator(self.device).get_state().numpy()
        return output

    def _forward_backward(self, running: _RunningUnit, features: Tensor | None, targets: Tensor | None) -> None:
        """Run the last shard forward, compute the loss, and run the shard backward."""
        assert features is not None
        assert targets is not None
        targets = targets.to(self.device)
        output = running.shard.forward_for_loss(features)
        loss = self.output.loss(output, targets)
        self._update_metrics(running, output, targets)
        del output  # Otherwise the backward pass could not free it.
        loss.backward()
        running.result.loss = loss.item()

    def _backward(self, shard: "DeviceShard", features: Tensor | None, gradient: Tensor | None) -> None:
        """Run a shard before the last one backward, after its forward pass again where activations are recomputed."""
        assert gradient is not None
        if features is not None:
            shard.recompute_forward(features)
        shard.backward(gradient)

    def _update_metrics(self, running: _RunningUnit, output: Tensor, targets: Tensor) -> None:
        """Count correct outputs and look for a collapse, at the steps at which the training loop does."""
        request, result = running.request, running.result
        num_correct, num_measured = request.decode_counts
        if request.is_logged:
            meter = EpochMeter(1, self.device)
            with torch.no_grad():
                meter.add_scores(self.output.scores(output.detach()), targets)
            newly_correct, newly_measured = meter.decoded.tolist()
            num_correct, num_measured = num_correct + newly_correct, num_measured + newly_measured
            result.decode_counts = num_correct, num_measured
        if request.ends_epoch:
            accuracy = num_correct / num_measured if num_measured else 0.0
            classes = self.spec.task.num_classes
            result.warning = collapse_warning(output, self.output, accuracy, classes, request.unit.step + 1) or ""

    def _set_rng_state(self, state: NDArray[np.uint8] | int) -> None:
        """Set the generator that random layers draw from, to a seed or to a state from the shard to the left."""
        if isinstance(state, int):
            seed_forward(state, self.device)
        else:
            default_generator(self.device).set_state(torch.from_numpy(state))


class DeviceShard:
    """A shard of a model: its module and optimiser, whose tensors are views into the buffer that is bound to them.

    Args:
        model: The shard's model.
        spec: The shard.
    """

    def __init__(self, model: DeviceModel, spec: ShardSpec) -> None:
        self.model, self.spec = model, spec
        start, stop = model.chain.cut_named(spec.start), model.chain.cut_named(spec.stop)
        self.is_first = spec.start == model.spec.task.start
        self.module: fx.GraphModule = model.chain.extract_segment(start, stop, model.between)
        self._tensors: _ShardTensors | None = None
        """The module's and the optimiser's tensors, once a buffer was bound for the first time."""
        self._buffer: Tensor | None = None
        self._features: Tensor | None = None
        """The input of the latest forward pass, until its gradient is taken."""
        self._output: Tensor | None = None
        """The output of the latest forward pass with its autograd graph, until the backward pass."""

    @property
    def is_built(self) -> bool:
        """Return whether a buffer has been bound before, so that module and optimiser are complete."""
        return self._tensors is not None

    # ---- The buffer.

    def bind(self, buffer: Tensor) -> None:
        """Make all tensors of the shard views into `buffer`, [bytes], which holds their values."""
        if self._buffer is buffer:
            return
        layout = self.spec.layout
        weights = {name: slot.view(buffer) for name, slot in layout.weights.items()}
        if self._tensors is None:
            self._tensors = self._build(weights)
        self._buffer = buffer
        self._tensors.attach(weights, {path: slot.view(buffer) for path, slot in layout.optimizer_state.items()})

    def _build(self, weights: Mapping[str, Tensor]) -> "_ShardTensors":
        """Complete the module with `weights`, and make its optimiser. Tensors without a weight get their initial values."""
        model, task = self.model, self.model.spec.task
        assign_weights(dict(weights), self.module)
        materialise(self.module, model.chain.tape, task.seed, model.device)
        self.module.train()
        optimizer = make_optimizer(self.module.parameters(), task.train, model.spec.default_decay)
        return _ShardTensors(self.module, optimizer, self.spec.layout, model.device)

    def unbind(self) -> None:
        """Drop all references to the buffer, which would otherwise keep its memory on the device."""
        assert self._tensors is not None
        self._buffer = None
        self._tensors.attach_empty()

    def _bound_buffer(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer

    # ---- The forward pass. Inputs and outputs are [batch, *shape].

    def forward_without_gradient(self, features: Tensor) -> Tensor:
        """Return the output for `features`, and keep nothing for the backward pass."""
        with torch.no_grad():
            return self._run_module(features)

    def forward_saving_activations(self, features: Tensor) -> Tensor:
        """Return the output for `features`, and keep activations for the backward pass, in host memory if shards move."""
        self._features = self._requiring_gradient(features)
        with ActivationOffload(self._bound_buffer).hooks() if self.model.shards_move else nullcontext():
            self._output = self._run_module(self._features)
        return self._output.detach()

    def forward_for_loss(self, features: Tensor) -> Tensor:
        """Return the output for `features` with its autograd graph.

        The shard keeps no reference to it, so that the backward pass can free it early.
        """
        self._features = self._requiring_gradient(features)
        return self._run_module(self._features)

    def recompute_forward(self, features: Tensor) -> None:
        """Repeat the forward pass for the backward pass. Buffers such as running statistics count a batch only once."""
        before = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        self._features = self._requiring_gradient(features)
        self._output = self._run_module(self._features)
        for name, buffer in self.module.named_buffers():
            buffer.data.copy_(before[name])

    def _run_module(self, features: Tensor) -> Tensor:
        with autocast(self.model.precision, self.model.device):
            output: Tensor = self.module(features)
        return output

    def _requiring_gradient(self, features: Tensor) -> Tensor:
        """Return `features`, whose gradient the shard to the left needs, if there is one."""
        return features if self.is_first else features.requires_grad_()

    # ---- The backward pass and the optimiser step.

    def backward(self, gradient: Tensor) -> None:
        """Run the shard backward from the `gradient` of its output, [batch, *shape]."""
        assert self._output is not None
        output, self._output = self._output, None
        if output.requires_grad:  # It does not where every weight of a first shard is frozen.
            output.backward(gradient)

    def update_weights(self, learning_rate: float) -> None:
        """Do the optimiser step, and clear the gradients."""
        assert self._tensors is not None
        optimizer = self._tensors.optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()

    def pop_features_gradient(self) -> Tensor | None:
        """Return the gradient of the shard's input, [batch, *shape], and forget the input. A first shard has none."""
        features, self._features = self._features, None
        return None if self.is_first or features is None else features.grad


@dataclass(frozen=True)
class _ModuleBuffer:
    """A buffer of a module, such as a running mean."""

    module: nn.Module
    attribute: str
    name: str
    """The buffer's name in the whole shard."""


class _ShardTensors:
    """The tensors of a shard's module and optimiser, which can be replaced by views into another buffer.

    Args:
        module: The shard's module.
        optimizer: Its optimiser.
        layout: The names and types of all tensors.
        device: The device that they are on.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, layout: ShardLayout, device: torch.device
    ) -> None:
        self.optimizer = optimizer
        self._parameters = dict(module.named_parameters(remove_duplicate=False))
        self._buffers = [buffer for buffer in _module_buffers(module) if buffer.name in layout.weights]
        empty = partial(torch.empty, 0, device=device)
        self._empty_weights = {name: empty(dtype=slot.dtype) for name, slot in layout.weights.items()}
        self._empty_state = {path: empty(dtype=slot.dtype) for path, slot in layout.optimizer_state.items()}

    def attach(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Replace parameters and buffers by `weights`, and the optimiser's tensors by `state`."""
        for name, parameter in self._parameters.items():
            parameter.data = weights[name]
        for buffer in self._buffers:
            buffer.module._buffers[buffer.attribute] = weights[buffer.name]
        for path, tensor in state.items():
            name, _, key = path.rpartition("/")
            self.optimizer.state[self._parameters[name]][key] = tensor

    def attach_empty(self) -> None:
        """Replace all tensors by empty ones."""
        self.attach(self._empty_weights, self._empty_state)


def _module_buffers(module: nn.Module) -> list[_ModuleBuffer]:
    buffers = []
    for prefix, owner in module.named_modules():
        for attribute in owner._buffers:
            name = f"{prefix}.{attribute}" if prefix else attribute
            buffers.append(_ModuleBuffer(owner, attribute, name))
    return buffers
