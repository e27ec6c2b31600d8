"""Helpers that describe small trainings and make packs of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.packs.pack import Pack
from partrain.partition.plan import PartitionSettings
from partrain.settings import RunSettings
from partrain.training.job import Job, Member
from partrain.training.optimization import TrainSettings

TRAIN = TrainSettings(epochs=3, batch_size=64, lr=0.01, precision="fp64", early_stop=0)


def settings_of(**changed: Any) -> RunSettings:
    """Return the settings of a small run, with `changed` in place of the defaults."""
    defaults: dict[str, Any] = {
        "network": MLP(depth=4, width=32),
        "train": TRAIN,
        "launch": Local(device="cpu"),
        "partition": PartitionSettings(segments=1),
    }
    return RunSettings(**{**defaults, **changed})


def make_pack(
    folder: Path,
    folders: Sequence[Path],
    stack_size: int = 99,
    pauses: Sequence[int | None] | None = None,
    capacity: int | None = None,
) -> Pack:
    """Return a pack in `folder` of the trainings in `folders`, by default all at once until their end."""
    folder.mkdir(exist_ok=True)
    pauses = pauses or [None] * len(folders)
    members = tuple(
        Member(folder=path, name=str(path), pause_after=pause_after, stack_size=stack_size)
        for path, pause_after in zip(folders, pauses, strict=True)
    )
    options = {"capacity": capacity or len(folders)}
    job = Job(folder=folder, kind="pack", name=f"pack of {len(folders)}", members=members, options=options)
    job.write()
    return Pack(job)
