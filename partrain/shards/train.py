"""Shard parallelism, the front door: many models, each of which may be too large for a device, trained at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from partrain.errors import UserError
from partrain.shards.driver import ShardedTraining
from partrain.shards.policies import Policy
from partrain.shards.settings import ShardSettings


def train_sharded(
    tasks: Sequence[str | Path],
    devices: Sequence[str],
    folder: str | Path,
    settings: ShardSettings | None = None,
    policy: Policy | None = None,
    pause_after: Mapping[Path, int | None] | None = None,
    seed: int = 0,
    *,
    show_progress: bool = True,
) -> dict[Path, str]:
    """Train the models whose `tasks` (their folders) are given on `devices`, shards of all of them interleaved.

    Every model ends as training it alone would have it end, in its own folder, which `partrain.load` reads. `devices`:
    cuda:<n>, or cpu, once for each worker, which then have equal shares of the cores. `folder`: for the time line, the
    measured costs and the workers' logs. `policy`: instead of the one that `settings` name; `seed`: of one that draws.
    `pause_after`: after which epoch each is to pause. Called again on the same tasks, training goes on from their
    checkpoints.
    Returns why those failed that did, by task. Models that come later: `ShardedTraining`.

    Raises:
        ValueError: there is no task or no device, a task is no training, or a model or all of them do not fit.
        JobFailed: a worker was lost too often.
        KeyboardInterrupt: Ctrl-C; every model has written its checkpoint.
    """
    folders = [Path(task).absolute() for task in tasks]
    wanted = {Path(task).absolute(): epoch for task, epoch in (pause_after or {}).items()}
    for task in wanted.keys() - set(folders):
        raise UserError(f"pause_after: {task} is none of the tasks")
    training = ShardedTraining(devices, folder, settings, policy, seed=seed, show_progress=show_progress)
    for task in folders:
        training.add(task, wanted.get(task))
    training.run()
    return training.failures
