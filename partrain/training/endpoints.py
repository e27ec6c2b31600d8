"""The two boundaries of a task: where its segment begins, and where it ends."""

from pathlib import Path

import torch

from partrain.boundaries.activations import open_outputs
from partrain.boundaries.boundary import (
    ClassBoundary,
    DataBoundary,
    InputBoundary,
    OutputBoundary,
    StoredBoundary,
    SyntheticBoundary,
)
from partrain.data import Dataset
from partrain.data.batches import training_images, training_labels
from partrain.training.task import SegmentTask


def make_input(task: SegmentTask, folder: Path, device: torch.device) -> InputBoundary:
    """Return the boundary at which the task in `folder` begins.

    The data set is opened only for a segment that reads images or stored outputs.
    """
    if task.start is None:
        return DataBoundary(training_images(Dataset.open(Path(task.data)), device, task.validation))
    if task.stored_input is not None:
        labels = training_labels(Dataset.open(Path(task.data)), task.validation).to(device)
        return StoredBoundary(open_outputs(folder / task.stored_input), labels)
    return SyntheticBoundary(task.index, task.start_shape, task.num_classes, task.labels, task.seed, device)


def make_output(task: SegmentTask, device: torch.device) -> OutputBoundary:
    """Return the boundary at which the task ends."""
    if task.stop is None:
        return ClassBoundary()
    return SyntheticBoundary(task.index + 1, task.stop_shape, task.num_classes, task.labels, task.seed, device)
