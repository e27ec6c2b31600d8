"""Before the first step: every model cut into shards that fit, tried out, and laid into shared host memory."""

import gc
from collections.abc import Hashable
from dataclasses import asdict, dataclass, replace
from json import dumps

import torch

from partrain.device import is_gpu, release_unused_memory
from partrain.errors import UserError
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.layout import ShardLayout, aligned
from partrain.shards.messages import CrossingSpec, ModelSpec, ShardSpec, WorkerSettings
from partrain.shards.partitioner import PieceChain
from partrain.shards.profiler import StepProfile, profile_step
from partrain.shards.settings import ShardSettings
from partrain.training.task import SegmentTask

_ATTEMPTS = 8  # at cutting more finely than was estimated to do
_SMALLEST = 1.02  # of an exact need, so that what is said to work does


@dataclass(frozen=True)
class ShardPlan:
    """A model cut into shards: start and stop of each, where its tensors lie, and what a step of them takes."""

    cuts: list[tuple[str | None, str | None]]
    layouts: list[ShardLayout]
    profile: StepProfile

    def needs(self, double_buffer: bool) -> list[int]:
        """Bytes of a device, shard by shard; with `double_buffer` another one lies beside each."""
        work = self.profile.workspace_bytes
        return [(1 + double_buffer) * layout.num_bytes + own for layout, own in zip(self.layouts, work, strict=True)]


class ModelPreparer:
    """Prepares models for workers like `worker`.

    What a trial tells of a model is taken to hold for others of its shape.
    """

    def __init__(self, settings: ShardSettings, worker: WorkerSettings) -> None:
        self.settings, self.worker = settings, worker
        self.device, self.budget = torch.device(worker.device), worker.budget_bytes
        self._pieces: dict[Hashable, PieceChain] = {}
        self._cuts: dict[Hashable, ShardPlan] = {}

    def estimate_host_bytes(self, task: SegmentTask) -> int:
        """About what the task's model takes of host memory."""
        held = sum(piece.weight_bytes + piece.state_bytes for piece in self.pieces(task).pieces)
        kept = sum(piece.activation_bytes for piece in self.pieces(task).pieces)
        return held + (kept if self.settings.activations == "keep" else 0)

    def pieces(self, task: SegmentTask) -> PieceChain:
        key = _shape(task)
        if key not in self._pieces:
            self._pieces[key] = PieceChain.from_task(task)
        return self._pieces[key]

    def prepare(self, host_model: HostModel, host: HostMemory) -> None:
        """Cut the model, and move its tensors into `host`.

        Raises:
            ValueError: a layer alone does not fit into the budget.
        """
        task = replace(host_model.training.task, device=str(self.device))
        found = self.plan_shards(host_model, task)
        trial = found.profile
        sizes = [layout.num_bytes for layout in found.layouts]
        files = host.create_files([*sizes, *(each.offset + aligned(each.num_bytes) for each in trial.gradients)])
        shards = [
            ShardSpec(start=start, stop=stop, layout=layout, file=file, workspace_bytes=work)
            for (start, stop), layout, file, work in zip(
                found.cuts, found.layouts, files[: len(sizes)], trial.workspace_bytes, strict=True
            )
        ]
        crossings = [
            CrossingSpec(file=file, output=output, gradient=gradient)
            for file, output, gradient in zip(files[len(sizes) :], trial.outputs, trial.gradients, strict=True)
        ]
        spec = ModelSpec(
            folder=host_model.folder,
            task=task,
            default_decay=host_model.training.default_decay(),
            shards=tuple(shards),
            crossings=tuple(crossings),
            keeps_activations=self.settings.activations == "keep",
        )
        host_model.place(spec, trial.costs)

    def plan_shards(self, host_model: HostModel, task: SegmentTask) -> "ShardPlan":
        """The model of `host_model`, `task` on the device, cut into as few shards as fit.

        Raises:
            ValueError: a layer alone does not fit into the budget.
        """
        key = _shape(task)
        if key not in self._cuts:
            self._cuts[key] = self._find(host_model, task)
        return self._cuts[key]

    def _find(self, host_model: HostModel, task: SegmentTask) -> "ShardPlan":
        """The fewest shards that a trial shows to fit: cut by an estimate, more finely where that was too low."""
        pieces, factor = self.pieces(task), 1.0
        for _ in range(_ATTEMPTS):
            firsts = pieces.fewest_shards(self.budget, factor, double_buffer=self.settings.double_buffer)
            if firsts is None:
                firsts = list(range(len(pieces.pieces)))
            finest = len(firsts) == len(pieces.pieces)
            try:
                found = self.attempt(host_model, task, firsts)
            except torch.OutOfMemoryError as error:  # the device has less than it was thought to have
                if finest:
                    reason = str(error).splitlines()[0]
                    raise UserError(
                        f"{host_model.folder}: a layer of its model does not fit on {self.device}: {reason}"
                    ) from None
                factor *= 2
                continue
            needs = found.needs(self.settings.double_buffer)
            if max(needs) <= self.budget:
                return found
            if finest:
                worst = max(range(len(needs)), key=needs.__getitem__)
                raise UserError(
                    f"{host_model.folder}: layer {pieces.pieces[worst].name} needs {needs[worst]:,} bytes of a device "
                    f"{'with double buffering ' if self.settings.double_buffer else ''}and cannot be cut; "
                    f"launch.shards.budget_gib={self.budget / 2**30:.4g} is too small, the smallest that works is "
                    f"{_SMALLEST * max(needs) / 2**30:.4g}"
                )
            bounds = [*firsts, len(pieces.pieces)]
            estimates = [
                pieces.estimate_bytes(bounds[n], bounds[n + 1], factor, double_buffer=self.settings.double_buffer)
                for n in range(len(firsts))
            ]
            factor *= max(1.1, *(need / estimate for need, estimate in zip(needs, estimates, strict=True)))
        raise UserError(f"{host_model.folder}: no cut of its model fits into {self.budget:,} bytes")

    def attempt(self, host_model: HostModel, task: SegmentTask, firsts: list[int]) -> "ShardPlan":
        """Cut the model before the pieces `firsts`, and try a step of it."""
        cuts = self.pieces(task).cuts(firsts)
        layouts = host_model.layouts(cuts)
        hosts = [host_model.flat_bytes(layout) for layout in layouts]
        decay, keep = host_model.training.default_decay(), self.settings.activations == "keep"
        try:
            trial = profile_step(
                task,
                host_model.folder,
                decay,
                cuts,
                layouts,
                hosts,
                self.device,
                keep,
                self.worker.uses_separate_buffers,
            )
        finally:
            if is_gpu(self.device):  # the workers' processes need what this one's allocator would hold on to
                gc.collect()
                release_unused_memory(self.device)
        return ShardPlan(cuts, layouts, trial)


def _shape(task: SegmentTask) -> Hashable:
    """What the costs of a task's steps depend on."""
    train = task.train
    optimiser = train.optimizer, train.momentum > 0
    where = task.start, task.stop, tuple(task.image_shape), task.num_classes, task.stored_input is None
    plain = dumps([task.network, asdict(task.labels)], sort_keys=True)
    return plain, where, train.batch_size, train.precision, optimiser, task.index
