"""A stage of trainings in shards: workers, one per device or part of the CPU, take turns on all of them."""

from collections.abc import Sequence
from pathlib import Path

from partrain.launch.error_report import raise_failures, reported_failures
from partrain.launch.placement import worker_devices
from partrain.launch.settings import LaunchSettings
from partrain.launch.supervisor import treat_sigterm_as_ctrl_c
from partrain.packs.planner import PendingTraining
from partrain.shards.driver import ShardedTraining
from partrain.shards.settings import ShardSettings


def train_in_shards(
    trainings: Sequence[PendingTraining],
    grouping: ShardSettings,
    launch: LaunchSettings,
    folder: Path,
    *,
    show_progress: bool,
) -> None:
    """Run `trainings` by shard parallelism on the devices that `launch` allows.

    Args:
        trainings: The trainings, each of which runs to its end or its pause.
        grouping: The settings of shards.
        launch: The devices, threads and restarts.
        folder: The folder for the time line, the costs and the logs of workers.
        show_progress: Whether to show how far the trainings are.

    Raises:
        UserError: If a training does not fit into the memory of host or devices.
        JobFailed: If a training failed for good. It is raised once the others have finished.
        KeyboardInterrupt: After Ctrl-C or SIGTERM. Every training has written its checkpoint by then.
    """
    sharded = ShardedTraining(
        worker_devices(launch.device, launch.threads, len(trainings)),
        folder,
        grouping,
        threads=None if launch.threads == "auto" else int(launch.threads),
        max_restarts=launch.max_restarts,
        show_progress=show_progress,
    )
    for training in trainings:
        sharded.add(training.folder, training.pause_after, training.name)
    with treat_sigterm_as_ctrl_c():
        sharded.run()

    names = {training.folder: training.name for training in trainings}
    raise_failures(reported_failures({failed: names[failed] for failed in sharded.failures}))
