"""What the processes of a group have in common: the loop, checkpoints that agree, and the data order of the main job."""

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
from partrain.training.loop import Loop
from partrain.training.meters import PeakMemory
from partrain.training.optimization import DEFAULT_DECAY, make_optimizer
from partrain.training.progress import Progress
from partrain.training.segment import build_segment
from partrain.training.state import load_optimizer, load_weights, optimizer_state, weights_state


class RankTraining(Loop):
    """One process of a group, joined already (`group.joined`); what a step computes is the strategy's.

    A killed run goes on from the last epoch that all of its processes have finished.
    """

    task: RankTask

    @property
    def owns_weights(self) -> bool:
        """Whether the network is put together from this process's weights."""
        return True

    @property
    def can_fuse(self) -> bool:
        """Whether PyTorch has a fused optimiser for these weights."""
        return True

    def __init__(self, folder: Path, context: TrainingContext, memory: PeakMemory) -> None:
        task = RankTask.read(folder)
        super().__init__(folder, task, context, memory)
        self.rank, self.num_ranks = task.index, task.num_ranks
        dataset = Dataset.open(Path(task.data))
        self.images = DeviceImages(dataset, dataset.train, self.device)
        self.output = ClassBoundary()
        self.model = self.build()
        self.optimizer = make_optimizer(self.model.parameters(), task.train, DEFAULT_DECAY, fused=self.can_fuse)
        self.restore()

    def build(self) -> nn.Module:
        """This process's part of the network, with its initial weights."""
        return build_segment(self.task, self.folder, self.device)

    def weights(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict()) if self.owns_weights else {}

    def finish(self) -> None:
        """Leave the trained weights; until all have, the last epoch's checkpoint stays beside them."""
        self.record_resources()
        self._write({f"model.{name}": tensor for name, tensor in self.weights().items()})
        dist.barrier()
        (self.folder / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)

    def write_checkpoint(self) -> None:
        """A checkpoint, at the end of an epoch only: between them the processes are not at the same step."""
        if self.progress.step % self.order.steps_per_epoch == 0:
            dist.barrier()  # so that no process is more than one checkpoint ahead
            self._write(weights_state(self.model) | optimizer_state(self.model, self.optimizer))

    def _write(self, tensors: dict[str, Tensor]) -> None:
        path = self.folder / CHECKPOINT
        if path.exists() and not checkpoint.load_metadata(path)["finished"]:
            path.replace(self.folder / PREVIOUS_CHECKPOINT)
        checkpoint.save(path, tensors, self.progress.to_json())

    def restore(self) -> None:
        """Go on from the last step that all of the group have a checkpoint of."""
        found = {}
        for name in (PREVIOUS_CHECKPOINT, CHECKPOINT):
            path = self.folder / name
            if path.exists() and not (progress := checkpoint.load_metadata(path))["finished"]:
                found[progress["step"]] = path
        least = torch.tensor(max(found, default=0), device=self.device)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        if int(least) == 0:
            return
        if int(least) not in found:
            raise checkpoint.DamagedFile(
                f"{self.folder} has checkpoints of steps {sorted(found)}, the other processes' last is of step "
                f"{int(least)}; delete {self.folder.parent} and resume the run"
            )
        tensors, values = checkpoint.load(found[int(least)], self.device)
        self.progress = Progress(**values)
        load_weights(tensors, self.model)
        load_optimizer(tensors, self.model, self.optimizer)
