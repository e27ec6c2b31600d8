"""The training of one process of a group: the common loop, checkpoints that agree, and the main job's data order."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partrain.boundaries.boundary import ClassBoundary
from partrain.data import Dataset
from partrain.data.batches import DeviceImages
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


class RankTraining(Loop):
    """A training by one process of a group. The strategy, a subclass, computes its steps.

    A killed run resumes from the last epoch that all of its processes have finished.

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
        dataset = Dataset.open(Path(task.data))
        self.images = DeviceImages(dataset, dataset.train, self.device)
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
        """Write the trained weights. The last epoch's checkpoint stays until all processes have written theirs."""
        self.record_resources()
        self._write_tensors({f"model.{name}": tensor for name, tensor in self.weights().items()})
        dist.barrier()
        (self.folder / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)

    def is_checkpoint_due(self, step: Step) -> bool:
        """Return whether `step` ends an epoch, where all processes are together. None decides by its own clock."""
        return step.ends_epoch

    def write_checkpoint(self) -> None:
        """Write a checkpoint at an epoch's end, and nothing at other steps, at which the processes are not together."""
        if self.progress.step % self.order.steps_per_epoch != 0:
            return
        dist.barrier()  # No process is then more than one checkpoint ahead of another.
        self._write_tensors(weights_state(self.model) | optimizer_state(self.model, self.optimizer))

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
