"""Which processes do trainings: one each, packs, or workers that the shards of all of them take turns on."""

from collections.abc import Sequence
from pathlib import Path

from partrain.launch.job import raise_all, reported
from partrain.launch.placement import worker_devices
from partrain.launch.settings import LaunchSettings
from partrain.launch.supervisor import interruptible, launch
from partrain.packs.planner import PackPlanner, PendingTraining, TimingCache
from partrain.shards.driver import ShardedTraining


def train_work(
    work: Sequence[PendingTraining],
    settings: LaunchSettings,
    folder: Path,
    show: bool,
    advise: bool,
    queue: bool = False,
    timings: TimingCache | None = None,
) -> None:
    """Do all of `work`, each training until its end or pause, as `settings` say.

    `folder`: for packs, or for shards' time line. `show`: how far they are; `advise`: what packs are advised to hold.
    `queue`: `one_process_per_core` of `PackPlanner`, which adds to `timings`.

    Raises:
        ValueError: a training does not fit into the memory that it may take.
        JobFailed: a training failed for good; raised when the others have finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM; every training has written its checkpoint.
    """
    if not work:
        return
    if settings.name == "shards":
        _train_in_shards(work, settings, folder, show)
        return
    planner = PackPlanner(
        settings=settings,
        folder=folder,
        one_process_per_core=queue,
        show_timings=advise,
        timings={} if timings is None else timings,
    )
    launch(planner.plan(work), settings, show)


def _train_in_shards(work: Sequence[PendingTraining], settings: LaunchSettings, folder: Path, show: bool) -> None:
    training = ShardedTraining(
        worker_devices(settings.device, settings.threads, len(work)),
        folder,
        settings.shards,
        threads=None if settings.threads == "auto" else int(settings.threads),
        max_restarts=settings.max_restarts,
        show_progress=show,
    )
    for pending in work:
        training.add(pending.folder, pending.pause_after, pending.name)
    with interruptible():
        training.run()
    names = {pending.folder: pending.name for pending in work}
    raise_all(reported({folder: names[folder] for folder in training.failures}))
