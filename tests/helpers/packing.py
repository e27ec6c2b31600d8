"""Helpers: small trainings that can be packed, and packs of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings
from partrain.packs.pack import Pack
from partrain.packs.task import PackTask
from partrain.partition.plan import PartitionSettings
from partrain.settings import RunSettings
from partrain.training.optimization import TrainSettings

TRAIN = TrainSettings(epochs=3, batch_size=64, lr=0.01, precision="fp64", early_stop=0)


def settings_of(**changed: Any) -> RunSettings:
    defaults: dict[str, Any] = {
        "network": MLPSettings(depth=4, width=32),
        "train": TRAIN,
        "launch": LaunchSettings(device="cpu"),
        "partition": PartitionSettings(segments=1),
    }
    return RunSettings(**{**defaults, **changed})


def make_pack(folder: Path, members: Sequence[Path], stack_size: int = 99, **changed: Any) -> Pack:
    folder.mkdir(exist_ok=True)
    count = len(members)
    values: dict[str, Any] = {
        "pauses": [None] * count,
        "stack_sizes": [stack_size] * count,
        "room": [1] * count,
        "capacity": count,
    }
    return Pack(folder, PackTask(members=[str(member) for member in members], **values | changed))
