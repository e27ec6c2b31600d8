"""Shard parallelism, the front door: many models, each of which may be too large for a device, trained at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from partrain.launch.placement import place
from partrain.multi.shards.driver import ShardedTraining
from partrain.multi.shards.policies import POLICIES, Policy
from partrain.multi.shards.settings import ShardSettings
from partrain.multi.task import check_members


def train_sharded(
    tasks: Sequence[str | Path],
    devices: Sequence[str],
    folder: str | Path,
    settings: ShardSettings | None = None,
    policy: Policy | None = None,
    pauses: Mapping[Path, int | None] | None = None,
    seed: int = 0,
    show: bool = True,
) -> dict[Path, str]:
    """Train the models whose `tasks` (their folders) are given on `devices`, shards of all of them interleaved.

    Every model ends as training it alone would have it end, in its own folder, which `partrain.load` reads. `devices`:
    cuda:<n>, or cpu, once for each worker, which then have equal shares of the cores. `folder`: for the time line, the
    measured costs and the workers' logs. `policy`: instead of the one that `settings` name. `pauses`: after which epoch
    each is to pause. Called again on the same tasks, training goes on from their checkpoints. Returns why those failed that
    did, by task.

    Raises:
        ValueError: there is no task or no device, a task is no training, or a model or all of them do not fit.
        KeyboardInterrupt: Ctrl-C; every model has written its checkpoint.
    """
    settings = settings or ShardSettings()
    folders = [Path(task).absolute() for task in tasks]
    training = ShardedTraining(
        dict(zip(folders, check_members(folders), strict=True)),
        places(devices),
        Path(folder).absolute(),
        settings,
        policy or POLICIES[settings.policy](seed),
        show,
    )
    training.run(pauses or {})
    return training.failures


def places(devices: Sequence[str]) -> list[str]:
    """The devices by their full names.

    Raises:
        ValueError: there is none, one is not there, or they are not alike.
    """
    if not devices:
        raise ValueError("devices: there is none; give at least one, e.g. cpu or cuda:0")
    found = [place(device, len(devices), "devices")[number] for number, device in enumerate(devices)]
    if len({torch.device(device).type for device in found}) > 1:
        raise ValueError(f"devices: {', '.join(found)} are not alike; give CPUs or GPUs")
    return found
