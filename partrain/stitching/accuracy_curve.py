"""Test accuracy against time: the whole network put together from the weights that its processes had at each moment."""

import shutil
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
    run: Path, folders: list[Path], together: bool, dataset: Dataset, device: torch.device | str
) -> list[dict[str, Any]]:
    """A point for every epoch's end of any process in `folders`, from when all have one: time and test accuracy.

    `time`: see `Loop.keep_weights`. `run` holds the stitched network. `together`: the processes train one network in
    step, so that only weights of the same epoch make one. The points are kept in accuracy_curve.json, the weights are
    deleted.
    """
    stored = run / ACCURACY_CURVE
    if stored.exists():
        return list(checkpoint.read_json(stored))
    kept = [path for folder in folders for path in (folder / EPOCHS_FOLDER).glob("*.safetensors")]
    moments = sorted((checkpoint.load_metadata(path)["time"], path) for path in kept)
    owners = {path.parent for path in kept}
    latest: dict[Path, str] = {}
    points = []
    if kept:
        network, images = load(run, device), DeviceImages(dataset, dataset.test, torch.device(device))
    for time, path in moments:
        weights, _ = checkpoint.load(path, device)
        network.load_state_dict(weights, strict=False)
        latest[path.parent] = path.stem
        if latest.keys() == owners and (not together or len(set(latest.values())) == 1):
            points.append({"time": time, "test_accuracy": _accuracy(network, images, len(dataset.test))})
    if kept:
        checkpoint.write_json(stored, points)
    for owner in owners:
        shutil.rmtree(owner)
    return points


def _accuracy(network: nn.Module, images: DeviceImages, count: int) -> float:
    right = 0
    with torch.inference_mode():
        for indices in torch.arange(count).split(_BATCH):
            values, targets = images.gather(indices.to(images.device))
            right += int((network(values).argmax(dim=1) == targets).sum())
    return right / count
