"""The two boundaries that a task trains between: what its segment is fed, and what it is held to."""

from pathlib import Path

import torch

from partrain.boundaries.activations import open_outputs
from partrain.boundaries.boundary import (
    ClassBoundary,
    DataBoundary,
    Input,
    Output,
    StoredBoundary,
    SyntheticBoundary,
)
from partrain.data import Dataset
from partrain.data.batches import shared_training_images
from partrain.training.task import SegmentTask


def make_input(task: SegmentTask, folder: Path, device: torch.device) -> Input:
    """The boundary that `task` begins at; only the data and stored boundaries open the data set."""
    if task.start is None:
        dataset = Dataset.open(Path(task.data))
        return DataBoundary(shared_training_images(dataset, device))
    if task.stored_input is not None:
        labels = Dataset.open(Path(task.data)).train.labels.to(device)
        return StoredBoundary(open_outputs(folder / task.stored_input), labels)
    return SyntheticBoundary(task.index, task.start_shape, task.num_classes, task.labels, task.seed, device)


def make_output(task: SegmentTask, device: torch.device) -> Output:
    """The boundary that `task` ends at."""
    if task.stop is None:
        return ClassBoundary()
    return SyntheticBoundary(task.index + 1, task.stop_shape, task.num_classes, task.labels, task.seed, device)
