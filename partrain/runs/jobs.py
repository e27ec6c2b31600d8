"""Which processes do trainings: one each, packs, or workers that the shards of all of them take turns on."""

from pathlib import Path

from partrain.launch.job import raise_all, reported
from partrain.launch.placement import worker_devices
from partrain.launch.settings import LaunchSettings
from partrain.launch.supervisor import interruptible, launch
from partrain.packs.planner import Known, Work, processes
from partrain.shards.driver import ShardedTraining


def train_work(
    work: Work,
    settings: LaunchSettings,
    folder: Path,
    show: bool,
    advise: bool,
    queue: bool = False,
    known: Known | None = None,
) -> None:
    """Do all of `work`, each training until its end or pause, as `settings` say.

    `folder`: for packs, or for shards' time line. `show`: how far they are; `advise`: what packs are advised to hold.
    `queue`, `known`: see `processes`.

    Raises:
        ValueError: a training does not fit into the memory that it may take.
        JobFailed: a training failed for good; raised when the others have finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM; every training has written its checkpoint.
    """
    if not work.tasks:
        return
    if settings.name == "shards":
        _train_in_shards(work, settings, folder, show)
        return
    launch(processes(work, settings, folder, advise, queue, known), settings, show)


def _train_in_shards(work: Work, settings: LaunchSettings, folder: Path, show: bool) -> None:
    training = ShardedTraining(
        worker_devices(settings.device, settings.threads, len(work.tasks)),
        folder,
        settings.shards,
        threads=None if settings.threads == "auto" else int(settings.threads),
        max_restarts=settings.max_restarts,
        show_progress=show,
    )
    for task in work.tasks:
        training.add(task, work.pauses[task], work.names[task])
    with interruptible():
        training.run()
    raise_all(reported({folder: work.names[folder] for folder in training.failures}))
