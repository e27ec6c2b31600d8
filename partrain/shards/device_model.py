"""A model in a worker: its shards computed one at a time, forward and backward, exactly as the whole would be."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from partrain.boundaries.boundary import make_projections
from partrain.data.batches import Batch
from partrain.device import default_generator
from partrain.networks import Chain, network_settings_from_dict
from partrain.networks.deferred import TORCH_PATCH_LOCK, materialise
from partrain.rng import seed_forward
from partrain.shards.messages import ModelSpec, ShardSpec, UnitRequest, UnitResult
from partrain.shards.offload import ActivationOffload
from partrain.training.diagnostics import collapse_warning
from partrain.training.endpoints import make_input, make_output
from partrain.training.optimization import autocast, make_optimizer, resolve_precision, weight_dtype
from partrain.training.progress import EpochMeter
from partrain.training.state import assign_weights


class UnitInputs(NamedTuple):
    """The tensors that a unit is computed from, on the device."""

    buffer: Tensor
    """The shard's bytes."""
    features: Tensor | None = None
    """The output of the shard to the left, [batch, *shape]. None for a unit that does not need it."""
    gradient: Tensor | None = None
    """The gradient of the shard's output, [batch, *shape]. None for a forward pass and the last shard."""


class DeviceModel:
    """The model that `spec` describes, on `device`. `shards_move`: a shard may lie elsewhere from one unit to the next."""

    def __init__(self, spec: ModelSpec, device: torch.device, *, shards_move: bool) -> None:
        self.spec, self.device, self.shards_move = spec, device, shards_move
        task = spec.task
        self.precision = resolve_precision(task.train.precision, device)
        self.chain = Chain.build(network_settings_from_dict(task.network), task.image_shape, task.num_classes)
        self.between = make_projections(task.projections, task.num_classes, task.labels, task.seed, device)
        self.input = make_input(task, spec.folder, device)
        self.output = make_output(task, device)
        self.shards = [DeviceShard(self, each) for each in spec.shards]

    def compute(
        self, request: UnitRequest, result: UnitResult, inputs: UnitInputs
    ) -> tuple[Tensor | None, Tensor | None]:
        """Do the unit with the shard's bytes and what its neighbours have left it.

        What came of it is noted in `result`; what it leaves its neighbours is returned: its output, and the gradient of its
        features.
        """
        with TORCH_PATCH_LOCK:  # models that join are traced in another thread
            return self._compute(request, result, inputs.buffer, inputs.features, inputs.gradient)

    def _compute(
        self, request: UnitRequest, result: UnitResult, buffer: Tensor, features: Tensor | None, gradient: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        unit, shard, output = request.unit, self.shards[request.unit.shard], None
        result.is_cold = not shard.is_built
        shard.bind(buffer)
        if unit.is_forward or not self.spec.keeps_activations:
            self.draw_from(request.rng_state)
            targets = None if request.targets is None else torch.from_numpy(request.targets)
            if features is None:
                indices = torch.from_numpy(request.indices).to(self.device)
                features, targets = self.input.sample(Batch(unit.step, indices))
                features = features.to(weight_dtype(self.precision))
            if not unit.is_forward:
                shard.forward_again(features)
            elif unit.is_backward:
                assert targets is not None
                self.forward_backward(shard, features, targets.to(self.device), request, result)
            else:
                output = shard.forward(features, self.spec.keeps_activations)
                result.targets = None if targets is None else targets.cpu().numpy()
                result.rng_state = self.generator_state().numpy()
        if not unit.is_forward:
            assert gradient is not None
            shard.backward(gradient)
        if unit.is_backward:
            shard.step(request.learning_rate)
        if self.shards_move:
            shard.release()
        return output, shard.features_gradient() if unit.is_backward else None

    def forward_backward(
        self, shard: "DeviceShard", features: Tensor, targets: Tensor, request: UnitRequest, result: UnitResult
    ) -> None:
        """Of the last shard."""
        output = shard.forward_for_loss(features)
        loss = self.output.loss(output, targets)
        self.observe(output, targets, request, result)
        del output  # or the backward pass could not free it
        loss.backward()
        result.loss = loss.item()

    def observe(self, output: Tensor, targets: Tensor, request: UnitRequest, result: UnitResult) -> None:
        """As `Loop.observe` does."""
        right, looked_at = request.decode_counts
        if request.is_logged:
            meter = EpochMeter(1, self.device)
            with torch.no_grad():
                meter.add_scores(self.output.scores(output.detach()), targets)
            newly = meter.decoded.tolist()
            result.decode_counts = right, looked_at = right + newly[0], looked_at + newly[1]
        if request.ends_epoch:
            accuracy = right / looked_at if looked_at else 0.0
            classes = self.spec.task.num_classes
            result.warning = collapse_warning(output, self.output, accuracy, classes, request.unit.step + 1) or ""

    def draw_from(self, random: NDArray[np.uint8] | int) -> None:
        """What dropout and the like draw from."""
        if isinstance(random, int):
            seed_forward(random, self.device)
        else:
            default_generator(self.device).set_state(torch.from_numpy(random))

    def generator_state(self) -> Tensor:
        return default_generator(self.device).get_state()


class DeviceShard:
    """A part of a model: its module and its optimiser, over tensors in whatever bytes are bound to it."""

    optimizer: torch.optim.Optimizer

    def __init__(self, model: DeviceModel, spec: ShardSpec) -> None:
        self.model, self.spec = model, spec
        cuts = {cut.name: cut for cut in model.chain.cuts}
        start, stop = (None if name is None else cuts[name] for name in (spec.start, spec.stop))
        self.is_first = spec.start == model.spec.task.start
        self.module: fx.GraphModule = model.chain.extract_segment(start, stop, model.between)
        self.is_built = False
        self._buffer: Tensor | None = None
        self._features: Tensor | None = None
        self._output: Tensor | None = None

    def bind(self, buffer: Tensor) -> None:
        """Let all its tensors be those in `buffer`."""
        if self._buffer is buffer:
            return
        views = {name: place.view(buffer) for name, place in self.spec.layout.weights.items()}
        if not self.is_built:
            self.build(views)
        self._buffer = buffer
        self._attach(views, {path: place.view(buffer) for path, place in self.spec.layout.optimizer_state.items()})

    def release(self) -> None:
        """Let go of the bytes that are bound, which would stay on the device as long as anyone refers to them."""
        self._buffer = None
        self._attach(self._no_weights, self._no_state)

    def _attach(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.data = weights[name]
        for owner, attribute, name in self._buffers:
            owner._buffers[attribute] = weights[name]
        for path, tensor in state.items():
            name, _, key = path.rpartition("/")
            self.optimizer.state[self._parameters[name]][key] = tensor

    @property
    def bound(self) -> Tensor:
        """The bytes that its tensors are in."""
        assert self._buffer is not None
        return self._buffer

    def build(self, views: dict[str, Tensor]) -> None:
        """Its module's tensors begin as `views`; those that no checkpoint has are made anew."""
        task, chain = self.model.spec.task, self.model.chain
        assign_weights(views, self.module)
        materialise(self.module, chain.tape, task.seed, self.model.device)
        self.module.train()
        self.optimizer = make_optimizer(self.module.parameters(), task.train, self.model.spec.default_decay)
        self._parameters = dict(self.module.named_parameters(remove_duplicate=False))
        named = ((prefix, owner, each) for prefix, owner in self.module.named_modules() for each in owner._buffers)
        held = [(owner, each, f"{prefix}.{each}" if prefix else each) for prefix, owner, each in named]
        self._buffers = [(owner, each, name) for owner, each, name in held if name in views]
        nothing = partial(torch.empty, 0, device=self.model.device)
        self._no_weights = {name: nothing(dtype=place.dtype) for name, place in self.spec.layout.weights.items()}
        self._no_state = {path: nothing(dtype=place.dtype) for path, place in self.spec.layout.optimizer_state.items()}
        self.is_built = True

    # ---- forward

    def forward(self, features: Tensor, keep: bool) -> Tensor:
        """Its output [batch, *shape]. `keep`: what the backward pass will need, in host memory."""
        if not keep:
            with torch.no_grad():
                return self.run(features)
        self._features = self.asking_gradient(features)
        with ActivationOffload(lambda: self.bound).hooks() if self.model.shards_move else nullcontext():
            self._output = self.run(self._features)
        return self._output.detach()

    def forward_for_loss(self, features: Tensor) -> Tensor:
        """Its output, which is let go of as soon as the backward pass allows."""
        self._features = self.asking_gradient(features)
        return self.run(self._features)

    def forward_again(self, features: Tensor) -> None:
        """What the backward pass needs, as the forward pass had it: running statistics count a batch once."""
        before = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        self._features = self.asking_gradient(features)
        self._output = self.run(self._features)
        for name, buffer in self.module.named_buffers():
            buffer.data.copy_(before[name])

    def run(self, features: Tensor) -> Tensor:
        with autocast(self.model.precision, self.model.device):
            output: Tensor = self.module(features)
        return output

    def asking_gradient(self, features: Tensor) -> Tensor:
        return features if self.is_first else features.requires_grad_()

    # ---- backward

    def backward(self, gradient: Tensor) -> None:
        """From the `gradient` of its output."""
        assert self._output is not None
        output, self._output = self._output, None
        if output.requires_grad:  # or all of a first shard is frozen
            output.backward(gradient)

    def features_gradient(self) -> Tensor | None:
        """For the shard to the left."""
        features, self._features = self._features, None
        return None if self.is_first or features is None else features.grad

    def step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
