"""Helpers: the tasks of several small trainings, and the weights that they end with."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from partrain.data import Dataset
from partrain.partition.plan import make_plan
from partrain.runs.tasks import make_tasks
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import LocalContext
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining


def write_tasks(folder: Path, dataset: Dataset, settings: Sequence[RunSettings]) -> list[Path]:
    """Write the tasks of a run for each of `settings`, and return the tasks' folders in order."""
    folders = []
    for number, one in enumerate(settings):
        plan = make_plan(one.network, (1, *dataset.image_shape), dataset.num_classes, one.partition, 64)
        for name, task in make_tasks(one, plan, dataset, "cpu").items():
            task.write(folder / str(number) / name)
            folders.append(folder / str(number) / name)
    return folders


def train(folder: Path) -> bool:
    """Train the task in `folder` in this process; whether it has finished."""
    return SegmentTraining(folder, LocalContext(), PeakMemory()).run()


def train_alone(folder: Path, dataset: Dataset, settings: Sequence[RunSettings]) -> list[Path]:
    """Train a model of each of the settings by itself, and return the folders of their tasks."""
    tasks = write_tasks(folder, dataset, settings)
    for task in tasks:
        assert train(task)
    return tasks


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors in the checkpoint of a finished training."""
    tensors, progress = checkpoint.load(folder / CHECKPOINT)
    assert progress["finished"]
    return tensors


def difference(ours: Sequence[Path], theirs: Sequence[Path]) -> float:
    """Return the largest difference between the weights of the trainings in `ours` and in `theirs`, pair by pair."""
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        left, right = weights(one), weights(other)
        assert left.keys() == right.keys()
        largest = max(largest, *((left[name].double() - right[name].double()).abs().max().item() for name in left))
    return largest
