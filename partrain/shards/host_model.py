"""A model in the scheduler's process: an ordinary training whose tensors lie in shared host memory, shard by shard."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partrain.networks import Chain, network_settings_from_dict
from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.shards.host import map_file
from partrain.shards.layout import ShardLayout
from partrain.shards.messages import ModelSpec, ShardSpec, UnitRequest, UnitResult
from partrain.shards.scheduler import Cost, Unit, num_units
from partrain.shards.simulator import Load
from partrain.training.context import TrainingContext
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import moment_names
from partrain.training.segment import SegmentTraining


class WorkerPeakMemory(PeakMemory):
    """What a model's units have taken of a device at most, instead of what this process has."""

    def __init__(self) -> None:
        self.peak = 0

    def bytes(self, device: torch.device) -> int:
        return self.peak


class HostModel:
    """The training in `folder`, on its way from step to step; `next_step` is the step to be done, None at its end.

    Others compute it; here it lives in the host's memory. `name`: for people. `pause_after`: the epoch after which it is to.
    `spec`: how it is cut, and `costs`: of each unit of a step, both once it is prepared.
    """

    def __init__(self, folder: Path, name: str, context: TrainingContext, pause_after: int | None = None) -> None:
        self.folder, self.name, self.context, self.pause_after = folder, name, context, pause_after
        self.memory = WorkerPeakMemory()
        self._spec: ModelSpec | None = None
        self.costs: list[Cost] = []
        self.versions: list[int] = []
        self.load()
        self.first = self.training.progress.step

    def load(self) -> None:
        """Take the training up where its checkpoint is."""
        self.training = SegmentTraining(self.folder, self.context, self.memory, device="cpu")
        self.training.pause_after = self.pause_after
        self.training.model.train()
        self._steps = self.training.steps()
        self._saved = time.monotonic()
        self.advance()

    def reload(self) -> None:
        """Go back to the checkpoint: what has been done since is lost, and is done again."""
        self.load()
        self.move_to_host_memory(self.spec.shards)

    @property
    def spec(self) -> ModelSpec:
        """Return how the model is cut. It must be prepared."""
        assert self._spec is not None
        return self._spec

    @property
    def is_prepared(self) -> bool:
        """Return whether the model is cut and placed in host memory. A finished training never is."""
        return self._spec is not None

    def place(self, spec: ModelSpec, costs: Iterable[Cost]) -> None:
        """Move the training's tensors into the files of `spec`, and set what each unit of a step costs."""
        self.move_to_host_memory(spec.shards)
        self._spec, self.costs = spec, list(costs)

    def advance(self) -> None:
        self.next_step: Step | None = next(self._steps, None)
        self._random: dict[int, NDArray[np.uint8]] = {}
        self._targets: NDArray[np.generic] | None = None

    # ---- where its tensors lie

    def layouts(self, cuts: Sequence[tuple[str | None, str | None]]) -> list[ShardLayout]:
        """Of shards between these starts and stops."""
        task = self.training.task
        chain = Chain.build(network_settings_from_dict(task.network), task.image_shape, task.num_classes)
        places = {cut.name: cut for cut in chain.cuts}
        parameters = dict(self.training.model.named_parameters())
        state = self.training.model.state_dict()
        first = {id(parameter): name for name, parameter in parameters.items()}
        named = self.training.model.named_parameters(remove_duplicate=False)
        shared = {name: first[id(parameter)] for name, parameter in named if name not in parameters}
        layouts = []
        for start, stop in cuts:
            shard = chain.extract_segment(places.get(start or ""), places.get(stop or ""))
            own = {name: parameters[name].detach() for name in shard.state_dict() if name in parameters}
            aliases = {name: shared[name] for name in shard.state_dict() if name in shared}
            buffers = {name: state[name] for name in shard.state_dict() if name not in own | aliases}
            layouts.append(ShardLayout.from_tensors(own, buffers, self._optimizer_state(own), aliases))
        return layouts

    def _optimizer_state(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the optimiser keeps of `parameters`, by <name>/<key>; zero where it has not begun."""
        named, found = dict(self.training.model.named_parameters()), {}
        for name in parameters:
            parameter = named[name]
            if not parameter.requires_grad:
                continue
            kept = self.training.optimizer.state[parameter]
            for key in moment_names(self.training.task.train):
                found[f"{name}/{key}"] = kept.get(key, torch.zeros_like(parameter.detach()))
            if self.training.task.train.optimizer != "sgd":
                found[f"{name}/step"] = torch.as_tensor(kept.get("step", 0.0), dtype=torch.float32)
        return found

    def flat_bytes(self, layout: ShardLayout) -> Tensor:
        """A copy of a shard's tensors, laid out so."""
        held = torch.zeros(layout.num_bytes, dtype=torch.uint8)
        state = self.training.model.state_dict()
        for name, place in layout.weights.items():
            place.view(held).copy_(state[name])
        names = {path.rpartition("/")[0]: state[path.rpartition("/")[0]] for path in layout.optimizer_state}
        for path, tensor in self._optimizer_state(names).items():
            layout.optimizer_state[path].view(held).copy_(tensor)
        return held

    def move_to_host_memory(self, shards: Sequence[ShardSpec]) -> None:
        """Let the training's tensors be those in the shards' files."""
        model, optimizer = self.training.model, self.training.optimizer
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        for shard in shards:
            held = map_file(shard.file)
            views = {name: place.view(held) for name, place in shard.layout.weights.items()}
            state = {path: place.view(held) for path, place in shard.layout.optimizer_state.items()}
            for path, tensor in self._optimizer_state({n: t for n, t in views.items() if n in parameters}).items():
                name, _, key = path.rpartition("/")
                optimizer.state[parameters[name]][key] = state[path].copy_(tensor)
            for name, view in views.items():
                if name in parameters:
                    parameters[name].data = view.copy_(parameters[name].detach())
                elif name in buffers:
                    owner, _, attribute = name.rpartition(".")
                    model.get_submodule(owner)._buffers[attribute] = view.copy_(buffers[name])
        self.versions = [0] * len(shards)

    def files(self) -> list[Path]:
        """Where it is in host memory."""
        spec = self.spec
        return [shard.file for shard in spec.shards] + [crossing.file for crossing in spec.crossings]

    # ---- its units

    @property
    def steps_left(self) -> range:
        """From the next step to the one it ends or pauses before."""
        return range(self.training.progress.step, self.training.last_step)

    def make_request(self, unit: Unit) -> UnitRequest:
        """What a worker has to know to do `unit` of the next step."""
        step, training = self.next_step, self.training
        assert step is not None
        assert step.batch.step == unit.step
        if unit.position == 0:
            training.set_learning_rate(unit.step)
        right, looked_at = training.meter.decoded.tolist()
        return UnitRequest(
            unit=unit,
            version=self.versions[unit.shard],
            learning_rate=training.optimizer.param_groups[0]["lr"],
            indices=step.batch.indices.numpy(),
            rng_state=training.forward_seed(unit.step) if unit.shard == 0 else self._random[unit.shard],
            targets=self._targets if unit.is_forward and unit.is_backward else None,
            is_logged=step.is_logged,
            ends_epoch=step.ends_epoch,
            decode_counts=(right, looked_at),
        )

    def record(self, result: UnitResult) -> bool:
        """Take note of what came of a unit, and of the step's end with the last one.

        Returns whether `save` is to be called before the next unit.

        Raises:
            ValueError: training cannot go on.
        """
        unit = result.unit
        self.versions[unit.shard] += 1
        self.record_copies(result)
        self.memory.peak = max(self.memory.peak, result.peak_bytes)
        if result.rng_state is not None:
            self._random[unit.shard + 1] = result.rng_state
        if result.targets is not None:
            self._targets = result.targets
        if result.loss is not None:
            training = self.training
            training.meter.add_loss(unit.step % training.order.steps_per_epoch, torch.tensor(result.loss))
            if result.decode_counts is not None:
                training.meter.decoded.copy_(torch.tensor(result.decode_counts))
            if self.next_step is not None and self.next_step.ends_epoch:
                training.warning = result.warning
        return unit.position + 1 == num_units(len(self.versions)) and self.end_step()

    def record_copies(self, result: UnitResult) -> None:
        """Keep the latest seconds of copying that there was any of."""
        before, (load_begin, load_end) = self.costs[result.unit.position], result.load_span
        load = load_end - load_begin if result.bytes_loaded else before.load
        store = result.store_span[1] - result.store_span[0]
        self.costs[result.unit.position] = replace(before, load=load, store=store)

    def as_load(self, seconds: Iterable[float]) -> Load:
        """What its steps here have cost, for the simulator. `seconds`: of each unit, as measured."""
        units = tuple(replace(cost, seconds=float(each)) for cost, each in zip(self.costs, seconds, strict=True))
        return Load(units=units, steps=self.training.progress.step - self.first)

    def end_step(self) -> bool:
        training, step = self.training, self.next_step
        assert step is not None
        training.progress.step += 1
        training.log_step(step)
        self.advance()
        is_checkpoint_due = time.monotonic() - self._saved > training.task.train.checkpoint_seconds
        return step.is_logged and (step.ends_epoch or is_checkpoint_due)

    def save(self) -> None:
        """Write the checkpoint, and at the training's end or pause all that it leaves."""
        if not self.training.progress.finished:
            self.keep()
        if self.next_step is None:
            with TORCH_PATCH_LOCK:  # what the next segment is to be fed is computed here
                self.training.finalize()

    def keep(self) -> None:
        self.training.save_checkpoint()
        self._saved = time.monotonic()
