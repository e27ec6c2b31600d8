"""`train_sharded`: many models trained at once, each of which may be too large for a device.

PyTorch's own model parallelism leaves all devices but one waiting. Here they compute shards of other models meanwhile.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from partrain.errors import UserError
from partrain.shards.driver import ShardedTraining
from partrain.shards.policies import Policy
from partrain.shards.settings import Shards


def train_sharded(
    tasks: Sequence[str | Path],
    devices: Sequence[str],
    folder: str | Path,
    settings: Shards | None = None,
    policy: Policy | None = None,
    pause_after: Mapping[Path, int | None] | None = None,
    seed: int = 0,
    *,
    show_progress: bool = True,
) -> dict[Path, str]:
    """Train several models at once, with the shards of all of them interleaved over the devices.

    Every model reaches the weights that it would reach alone, and writes them to its own folder, which `partrain.load`
    reads. When called again on the same tasks, training resumes from their checkpoints. Use `ShardedTraining` if models
    are to join later.

    Args:
        tasks: The folders of the models' tasks.
        devices: The device of each worker process by its name, or `cpu` once for each worker. Workers on the CPU
            share its cores equally.
        folder: The folder for the time line, the measured costs and the workers' logs.
        settings: The settings of shard parallelism; by default those of `Shards()`.
        policy: The scheduling policy, in place of the one that the settings name.
        pause_after: The epoch after which a task pauses, by the task's folder.
        seed: The seed of a policy that draws random numbers.
        show_progress: Whether progress is printed.

    Returns:
        The error message of each model that failed, by the task's folder.

    Raises:
        UserError: If there is no task or no device, a folder holds no task, or the models do not fit.
        JobFailed: If a worker was lost too often.
        KeyboardInterrupt: If a stop was requested (Ctrl-C). Every model has written its checkpoint.
    """
    folders = [Path(task).absolute() for task in tasks]
    pauses = {Path(task).absolute(): epoch for task, epoch in (pause_after or {}).items()}
    for task in pauses.keys() - set(folders):
        raise UserError(f"pause_after: {task} is not among the tasks; add it to them or leave it out")
    training = ShardedTraining(devices, folder, settings, policy=policy, seed=seed, show_progress=show_progress)
    for task in folders:
        training.add(task, pauses.get(task))
    training.run()
    return training.failures
