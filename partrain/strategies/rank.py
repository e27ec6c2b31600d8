"""The training of one process of a group: the common loop, checkpoints that agree, and the main job's data order."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partrain.boundaries.boundary import ClassBoundary
from partrain.data import Dataset
from partrain.data.batches import training_images
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, PREVIOUS_CHECKPOINT
from partrain.strategies.task import RankTask
from partrain.training.context import TrainingContext
from partrain.training.loop import Loop, Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import DEFAULT_DECAY, make_optimizer
from partrain.training.progress import Progress
from partrain.training.segment import build_segment
from partrain.training.state import load_optimizer, load_weights, optimizer_state, weights_state


@dataclass(frozen=True)
class Agreement:
    """The agreement of a group's processes after a step: on nothing where they are not together."""

    stops: bool = False
    """Whether all end, since any is asked to."""
    is_checkpoint_due: bool = False
    """Whether all write a checkpoint, since any one's clock says so."""
    has_time_to_save: bool = False
    """Whether all have time for a checkpoint before they end."""


class RankTraining(Loop):
    """A training by one process of a group. The strategy, a subclass, computes its steps.

    The checkpoints of all processes at one step are a round. A killed run resumes from the last round that is whole.

    Args:
        folder: The process's folder, with its task.
        context: The requests of the launcher.
        memory: The meter of the process's peak memory.
    """

    task: RankTask

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        task = RankTask.read(folder)
        super().__init__(folder, task, context, memory)
        self.rank, self.num_ranks = task.index, task.num_ranks
        self._agreement = Agreement()
        dataset = Dataset.open(Path(task.data))
        self.images = training_images(dataset, self.device, task.validation)
        self.output = ClassBoundary()
        self.model = self.build_model()
        self.optimizer = make_optimizer(
            self.model.parameters(), task.train, DEFAULT_DECAY, fused=self.can_fuse_optimizer
        )
        self.restore_checkpoint()

    @property
    def can_fuse_optimizer(self) -> bool:
        """Return whether PyTorch has a fused optimiser for the weights of this strategy."""
        return True

    def build_model(self) -> nn.Module:
        """Return this process's part of the network, with its initial weights."""
        return build_segment(self.task, self.folder, self.device)

    def weights(self) -> dict[str, Tensor]:
        """Return this process's weights by name, or none if the network is put together from others'."""
        return dict(self.model.state_dict())

    def finish(self) -> None:
        """Write the trained weights. The last round's checkpoint stays until all processes have written theirs."""
        self.record_resources()
        self._write_tensors({f"model.{name}": tensor for name, tensor in self.weights().items()})
        dist.barrier()
        (self.folder / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)

    # ---- Rounds.

    def is_together(self, step: Step) -> bool:
        """Return whether all processes come to the end of `step` at about the same time."""
        return step.is_logged

    def should_stop_after(self, step: Step) -> bool:
        """Return whether all processes end after `step`. They agree on that, and on a checkpoint, where they are together.

        None decides by its own clock, or by a request of its own.
        """
        self._agreement = self._agree(step) if self.is_together(step) else Agreement()
        return self._agreement.stops

    def _agree(self, step: Step) -> Agreement:
        """Return what any process of the group wants after `step`, and whether all have time for a checkpoint."""
        is_due, has_time = super().is_checkpoint_due(step), super().has_time_to_save()
        wishes = torch.tensor([self.context.should_stop(), is_due, not has_time], dtype=torch.int32, device=self.device)
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        stops, is_checkpoint_due, lacks_time = map(bool, wishes.tolist())
        return Agreement(stops, is_checkpoint_due, not lacks_time)

    def is_checkpoint_due(self, step: Step) -> bool:
        """Return whether all processes write a checkpoint after `step`."""
        return self._agreement.is_checkpoint_due

    def has_time_to_save(self) -> bool:
        """Return whether all processes have time for a checkpoint before they end."""
        return self._agreement.has_time_to_save

    def write_checkpoint(self) -> None:
        """Write this process's checkpoint of a round."""
        dist.barrier()  # No process is then more than one checkpoint ahead of another.
        tensors = weights_state(self.model) | optimizer_state(self.model, self.optimizer) | self.meter.tensors()
        self._write_tensors(tensors)

    def _write_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint, and keep the one before, unless that is of a finished training."""
        path = self.folder / CHECKPOINT
        if path.exists() and not checkpoint.load_metadata(path)["finished"]:
            path.replace(self.folder / PREVIOUS_CHECKPOINT)
        checkpoint.save(path, tensors, self.progress.to_json())

    def restore_checkpoint(self) -> None:
        """Restore the last step of which all processes of the group have a checkpoint, if there is one.

        Raises:
            DamagedFile: If this process has no checkpoint of that step.
        """
        paths = self._checkpoints_by_step()
        step = self._last_common_step(max(paths, default=0))
        if step == 0:
            return
        if step not in paths:
            raise checkpoint.DamagedFile(
                f"{self.folder} has checkpoints of steps {sorted(paths)}, but the other processes' last is of step "
                f"{step}; delete {self.folder.parent} and resume the run"
            )
        tensors, values = checkpoint.load(paths[step], self.device)
        self.progress = Progress(**values)
        self.record_place()
        load_weights(tensors, self.model)
        load_optimizer(tensors, self.model, self.optimizer)
        self.meter.restore(tensors)

    def _checkpoints_by_step(self) -> dict[int, Path]:
        """Return the files of this process's checkpoints of unfinished training, by their step."""
        paths = {}
        for name in (PREVIOUS_CHECKPOINT, CHECKPOINT):
            path = self.folder / name
            if not path.exists():
                continue
            progress = checkpoint.load_metadata(path)
            if not progress["finished"]:
                paths[progress["step"]] = path
        return paths

    def _last_common_step(self, own_last_step: int) -> int:
        """Return the smallest of all processes' last steps."""
        step = torch.tensor(own_last_step, device=self.device)
        dist.all_reduce(step, dist.ReduceOp.MIN)
        return int(step)
