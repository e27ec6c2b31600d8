"""The preparation of models for shard parallelism: each is cut into shards that fit, profiled, and moved to host memory."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path

import torch

from partrain.errors import UserError
from partrain.networks.deferred import TORCH_PATCH_LOCK
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.layout import CrossingSlots
from partrain.shards.messages import CrossingSpec, ModelSpec, ShardSpec, WorkerSettings
from partrain.shards.partitioner import CutNames, PieceChain
from partrain.shards.scheduler import Cost
from partrain.shards.settings import Shards
from partrain.shards.trials import Preparation, Trial
from partrain.training.task import SegmentTask

_MAX_ATTEMPTS = 8
"""How many ways to cut a model are tried at most, the first one included."""
_MARGIN = 1.02
"""The budget that an error recommends, over the exact need: the number is rounded, and must suffice all the same."""
_GIB = 2**30
_NO_FILE = Path()
"""The file of a shard that is only planned."""


@dataclass(frozen=True)
class ShardPlan:
    """A model cut into shards, and what a step of it takes."""

    shards: list[ShardSpec]
    """The shards, which have no files yet."""
    crossings: tuple[CrossingSlots, ...]
    """The tensors between each shard and the next one."""
    costs: tuple[Cost, ...]
    """The seconds that each unit of a step takes."""

    def device_bytes(self, *, double_buffer: bool) -> list[int]:
        """Return the bytes that each shard needs on a device, with `double_buffer` beside another one of its size."""
        copies = 1 + double_buffer
        return [copies * shard.layout.num_bytes + shard.workspace_bytes for shard in self.shards]

    def allocate(self, host: HostMemory) -> tuple[list[ShardSpec], list[CrossingSpec]]:
        """Create the files of all shards, and those of the tensors that cross between them.

        Raises:
            OSError: If host memory has no room for all of them.
        """
        shard_sizes = [shard.layout.num_bytes for shard in self.shards]
        crossing_sizes = [crossing.num_bytes for crossing in self.crossings]
        files = iter(host.create_files([*shard_sizes, *crossing_sizes]))
        shards = [replace(shard, file=next(files)) for shard in self.shards]
        crossings = [
            CrossingSpec(file=next(files), output=crossing.output, gradient=crossing.gradient)
            for crossing in self.crossings
        ]
        return shards, crossings


class ModelPreparer:
    """Cuts models into shards, and moves their tensors to host memory, before their first step.

    A model's cuts and profile are taken to hold for all models of the same shape.

    Args:
        settings: The settings of shard parallelism.
        worker: The settings that all workers have but for their devices: the models are prepared for these.
        host: The host memory that models are placed in.
    """

    def __init__(self, settings: Shards, worker: WorkerSettings, host: HostMemory) -> None:
        self.settings, self.worker = settings, worker
        self.device, self.budget = torch.device(worker.device), worker.budget_bytes
        self._host = host
        self._keeps_activations = settings.activations == "keep"
        self._pieces: dict[Hashable, PieceChain] = {}
        self._plans: dict[Hashable, ShardPlan] = {}

    def check_host_memory(self, tasks: Sequence[SegmentTask]) -> None:
        """Raise `UserError` unless the models of all tasks together are likely to fit into host memory."""
        sizes = [self._estimate_host_bytes(task) for task in tasks]
        # The model whose cut is tried exists twice meanwhile.
        self._host.check_free(sum(sizes) + max(sizes))

    def _estimate_host_bytes(self, task: SegmentTask) -> int:
        """Return about how many bytes of host memory the task's model will take."""
        pieces = self._pieces_of(task).pieces
        tensors = sum(piece.weight_bytes + piece.state_bytes for piece in pieces)
        activations = sum(piece.activation_bytes for piece in pieces)
        return tensors + (activations if self._keeps_activations else 0)

    def prepare(self, host_model: HostModel) -> Preparation[None]:
        """Cut the model, and move its tensors to files in host memory.

        Raises:
            UserError: If one of its layers alone does not fit on a device.
            OSError: If host memory has no room for the model.
        """
        task = replace(host_model.training.task, device=str(self.device))
        plan = yield from self.plan_shards(host_model, task)
        shards, crossings = plan.allocate(self._host)
        with TORCH_PATCH_LOCK:
            host_model.place(self._model_spec(host_model, task, shards, crossings), plan.costs)

    def _model_spec(
        self, host_model: HostModel, task: SegmentTask, shards: list[ShardSpec], crossings: list[CrossingSpec]
    ) -> ModelSpec:
        return ModelSpec(
            folder=host_model.folder,
            task=task,
            default_decay=host_model.training.default_decay(),
            shards=tuple(shards),
            crossings=tuple(crossings),
            keeps_activations=self._keeps_activations,
        )

    # ---- Where to cut.

    def plan_shards(self, host_model: HostModel, task: SegmentTask) -> Preparation[ShardPlan]:
        """Cut a model into as few shards as fit on a device.

        Args:
            host_model: The model.
            task: Its task, with the workers' device.

        Raises:
            UserError: If one of its layers alone does not fit.
        """
        key = _shape(task)
        if key not in self._plans:
            self._plans[key] = yield from self._search_plan(host_model, task)
        return self._plans[key]

    def _pieces_of(self, task: SegmentTask) -> PieceChain:
        key = _shape(task)
        if key not in self._pieces:
            with TORCH_PATCH_LOCK:
                self._pieces[key] = PieceChain.from_task(task)
        return self._pieces[key]

    def _search_plan(self, host_model: HostModel, task: SegmentTask) -> Preparation[ShardPlan]:
        """Return the first plan that a trial shows to fit."""
        # Cuts follow an estimate of memory, which the trial corrects:
        #
        #   ┌─▶ cut by the estimate ─▶ profile a step ─▶ does each shard fit? ─ yes ─▶ done
        #   └───────── multiply the estimate of workspaces ◀───────┴─ no
        pieces, workspace_factor = self._pieces_of(task), 1.0
        double_buffer = self.settings.double_buffer
        every_piece = list(range(len(pieces.pieces)))
        for _ in range(_MAX_ATTEMPTS):
            first_pieces = pieces.fewest_shards(self.budget, workspace_factor, double_buffer=double_buffer)
            first_pieces = first_pieces or every_piece
            try:
                plan = yield from self.profile_cuts(host_model, task, first_pieces)
            except torch.OutOfMemoryError as error:  # The device has less memory than it seemed to have.
                if first_pieces == every_piece:
                    raise self._out_of_memory(host_model, error) from None
                workspace_factor *= 2
                continue

            needed = plan.device_bytes(double_buffer=double_buffer)
            if max(needed) <= self.budget:
                return plan
            if first_pieces == every_piece:
                raise self._budget_too_small(host_model, pieces, needed)
            workspace_factor *= self._correction(pieces, first_pieces, workspace_factor, needed)
        raise UserError(
            f"{host_model.folder}: none of {_MAX_ATTEMPTS} ways to cut the model fits into {self.budget:,} bytes of a "
            "device; set a larger grouping.budget_gib"
        )

    def _correction(
        self, pieces: PieceChain, first_pieces: list[int], workspace_factor: float, needed: list[int]
    ) -> float:
        """Return by how much to multiply the estimate: by what the worst shard needs over it, and at least by 1.1."""
        bounds = [*first_pieces, len(pieces.pieces)]
        ratios = []
        for shard, needed_bytes in enumerate(needed):
            estimate = pieces.estimate_bytes(
                bounds[shard], bounds[shard + 1], workspace_factor, double_buffer=self.settings.double_buffer
            )
            ratios.append(needed_bytes / estimate)
        return max(1.1, *ratios)

    def profile_cuts(self, host_model: HostModel, task: SegmentTask, first_pieces: list[int]) -> Preparation[ShardPlan]:
        """Cut the model before each of `first_pieces`, and let a worker try a few steps on copies of its tensors.

        Raises:
            torch.OutOfMemoryError: If the device has too little memory.
        """
        shards = self._copy_shards(host_model, self._pieces_of(task).cuts(first_pieces))
        try:
            trial = Trial(self._model_spec(host_model, task, shards, []))
            yield trial  # No lock is held, since the thread that writes checkpoints may need it meanwhile.
            profile = trial.profile
        finally:
            self._host.delete_files(shard.file for shard in shards)
        shards = [
            replace(shard, file=_NO_FILE, workspace_bytes=workspace_bytes)
            for shard, workspace_bytes in zip(shards, profile.workspace_bytes, strict=True)
        ]
        return ShardPlan(shards, profile.crossings, profile.costs)

    def _copy_shards(self, host_model: HostModel, cuts: Sequence[CutNames]) -> list[ShardSpec]:
        """Return the shards between `cuts`, with copies of the model's tensors in their files."""
        with TORCH_PATCH_LOCK:
            layouts = host_model.layouts(cuts)
            files = self._host.create_files(layout.num_bytes for layout in layouts)
            shards = [
                ShardSpec(start=start, stop=stop, layout=layout, file=file, workspace_bytes=0)
                for (start, stop), layout, file in zip(cuts, layouts, files, strict=True)
            ]
            host_model.copy_to_files(shards)
            return shards

    # ---- Errors.

    def _out_of_memory(self, host_model: HostModel, error: torch.OutOfMemoryError) -> UserError:
        reason = str(error).splitlines()[0]
        return UserError(
            f"{host_model.folder}: a layer of the model does not fit on {self.device} and cannot be cut: {reason}"
        )

    def _budget_too_small(self, host_model: HostModel, pieces: PieceChain, needed: list[int]) -> UserError:
        worst = max(range(len(needed)), key=needed.__getitem__)
        buffering = "with double buffering " if self.settings.double_buffer else ""
        return UserError(
            f"{host_model.folder}: layer {pieces.pieces[worst].name} needs {needed[worst]:,} bytes of a device "
            f"{buffering}and cannot be cut; grouping.budget_gib={self.budget / _GIB:.4g} is too small, "
            f"set it to at least {_MARGIN * max(needed) / _GIB:.4g}"
        )


def _shape(task: SegmentTask) -> Hashable:
    """Return a key that tasks share whose models have the same cuts and costs."""
    train = task.train
    network_and_labels = dumps([task.network, asdict(task.labels)], sort_keys=True)
    segment = task.start, task.stop, tuple(task.image_shape), task.num_classes, task.stored_input is None
    optimizer = train.optimizer, train.sgd_momentum > 0
    return network_and_labels, segment, train.batch_size, train.precision, optimizer, task.index
