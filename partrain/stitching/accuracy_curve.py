"""The accuracy curve of a run: the test accuracy of the whole network against time.

Each process writes its weights after every epoch. Put together, the latest weights of all processes at a moment are the
network as it was then.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from partrain.data import Dataset
from partrain.data.batches import DeviceImages
from partrain.stitching.stitch import load
from partrain.storage import checkpoint
from partrain.storage.run_folder import ACCURACY_CURVE, EPOCHS_FOLDER

_BATCH = 2000


def accuracy_curve(
    run: Path, folders: Sequence[Path], dataset: Dataset, device: torch.device | str, *, same_epochs: bool
) -> list[dict[str, Any]]:
    """Return the points of the accuracy curve: a `time` in seconds since 1970, and the `test_accuracy` then.

    There is a point for the end of every epoch of any process, from the moment on when all have ended one. The points
    are written to accuracy_curve.json, and the weights are deleted.

    Args:
        run: The run's folder, with the stitched network.
        folders: The folders of the processes' trainings.
        dataset: The data set with the test images.
        device: The device to evaluate on.
        same_epochs: Whether only weights of the same epoch make up a network, as for processes that train in step.
    """
    stored = run / ACCURACY_CURVE
    if stored.exists():
        _delete_weights(folders)  # A process that was killed may have written the curve and left them.
        return list(checkpoint.read_json(stored))
    paths = [path for folder in folders for path in (folder / EPOCHS_FOLDER).glob("*.safetensors")]
    if not paths:
        return []

    network, images = load(run, device), DeviceImages(dataset, dataset.test, torch.device(device))
    points = [
        {"time": time, "test_accuracy": measure_accuracy(network, images, len(dataset.test))}
        for time in _moments(network, paths, device, same_epochs=same_epochs)
    ]
    checkpoint.write_json(stored, points)
    _delete_weights(folders)
    return points


def _delete_weights(folders: Sequence[Path]) -> None:
    """Delete the weights after epochs in the folders of trainings."""
    for folder in folders:
        shutil.rmtree(folder / EPOCHS_FOLDER, ignore_errors=True)


def _moments(
    network: nn.Module, paths: Sequence[Path], device: torch.device | str, *, same_epochs: bool
) -> Iterator[float]:
    """Load weights into `network` in the order of time; yield each time at which all processes have given theirs."""
    for time, newest in _by_epoch(paths) if same_epochs else _by_time(paths):
        for path in newest:
            weights, _ = checkpoint.load(path, device)
            network.load_state_dict(weights, strict=False)
        yield time


def _by_epoch(paths: Sequence[Path]) -> Iterator[tuple[float, list[Path]]]:
    """Yield the files of each epoch that all processes have ended, with the latest of their times.

    Processes that train in step end an epoch before any ends the next, but each counts the seconds of its own training.
    A process that waits for one which writes a file counts these, and is ahead of it by so much from then on.
    """
    folders = {path.parent for path in paths}
    for epoch in sorted({int(path.stem) for path in paths}):
        files = [path for path in paths if int(path.stem) == epoch]
        if len(files) == len(folders):
            yield max(_time(path) for path in files), files


def _by_time(paths: Sequence[Path]) -> Iterator[tuple[float, list[Path]]]:
    """Yield each time of a file from when every process has one, with the files that are new since the last time."""
    waiting, newest = {path.parent for path in paths}, []
    for time, path in sorted((_time(path), path) for path in paths):
        waiting.discard(path.parent)
        newest.append(path)
        if not waiting:
            yield time, newest
            newest = []


def _time(path: Path) -> float:
    """Return when weights were those in a file, in seconds since 1970."""
    return float(checkpoint.load_metadata(path)["time"])


def measure_accuracy(network: nn.Module, images: DeviceImages, num_images: int) -> float:
    """Return the accuracy of `network` on the first `num_images` images, from 0 to 1."""
    num_correct = 0
    with torch.inference_mode():
        for indices in torch.arange(num_images).split(_BATCH):
            values, targets = images.gather(indices.to(images.device))
            num_correct += int((network(values).argmax(dim=1) == targets).sum())
    return num_correct / num_images
