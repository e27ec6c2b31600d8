"""The engine of a sharded training: its scheduler runs in the job's process, and its workers are children of that."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from partrain.device import is_cpu, num_cores
from partrain.errors import UserError
from partrain.launch.error_report import read_error_report, write_error_report
from partrain.shards.driver import ShardedTraining
from partrain.shards.settings import Shards
from partrain.shards.view import TrainingView
from partrain.training.context import TrainingContext
from partrain.training.job import Job, JobFile, Member, Resources
from partrain.training.meters import PeakMemory


def shards_job(
    folder: Path,
    members: Sequence[Member],
    kind: str,
    settings: Shards,
    *,
    threads: int | None,
    max_restarts: int,
    processes: str,
    show_progress: bool,
) -> Job:
    """Return the job that trains `members` in shards, on all devices of a node.

    Args:
        folder: The folder for the time line, the costs and the logs of workers.
        members: The trainings.
        kind: The kind of the devices.
        settings: The settings of shards.
        threads: The CPU threads of each worker, or None for an equal share of the cores.
        max_restarts: How often each worker is replaced when it is lost.
        processes: Whether workers are forked or started anew, the setting `launch.processes`.
        show_progress: Whether the job says how models are cut and how long they will take.
    """
    return Job(
        folder=folder,
        kind="shards",
        name="the sharded training",
        members=tuple(members),
        resources=Resources(kind=kind, devices=None),
        options={
            "settings": asdict(settings),
            "threads": threads,
            "max_restarts": max_restarts,
            "processes": processes,
            "show_progress": show_progress,
        },
    )


class JobView(TrainingView):
    """A view of a sharded training whose lines go to the launcher, which has the bars.

    Args:
        job: The job.
        context: The context, which passes lines on.
    """

    def __init__(self, job: Job, context: TrainingContext) -> None:
        super().__init__(job.folder, show_progress=job.options["show_progress"])
        self._context = context

    def print(self, text: str) -> None:
        """Print `text` at the launcher."""
        self._context.print(text)


class ShardedJob:
    """A sharded training of a job's members.

    Args:
        job: The job that `shards_job` returned.
        context: The devices to train on, and whether to stop.
    """

    def __init__(self, job: Job, context: TrainingContext) -> None:
        self.job, self._job_file = job, JobFile(job)
        threads = job.options["threads"]
        self.training = ShardedTraining(
            worker_devices(context.devices, threads, len(job.members)),
            job.folder,
            Shards(**job.options["settings"]),
            threads=threads,
            max_restarts=job.options["max_restarts"],
            processes=job.options["processes"],
            context=context,
            view=JobView(job, context),
            on_poll=self.admit_new_members,
        )
        for member in job.members:
            # A training that failed before this process was restarted is not tried again.
            if read_error_report(member.folder) is None:
                self.training.add(member.folder, member.pause_after, member.name)

    def run(self) -> bool:
        """Train all members, and return whether all have finished, paused or failed."""
        try:
            self.training.run()
        except KeyboardInterrupt:  # The context asked to stop.
            return False
        return True

    def admit_new_members(self) -> None:
        """Add the trainings that the job's owner has added to job.json."""
        job = self._job_file.read_if_changed()
        if job is None:
            return
        known = {member.folder for member in self.job.members}
        self.job = job
        for member in job.members:
            if member.folder in known:
                continue
            try:
                self.training.add(member.folder, member.pause_after, member.name)
            except UserError as error:
                write_error_report(member.folder, error)


def worker_devices(devices: Sequence[str], threads: int | None, num_models: int) -> list[str]:
    """Return the device of each worker: every accelerator of the job, or parts of the CPU.

    Args:
        devices: The devices of the job.
        threads: The CPU threads of each worker, or None for one worker per core.
        num_models: The number of models, which is the highest number of workers on the CPU.
    """
    if not is_cpu(devices[0]):
        return list(devices)
    num_workers = max(1, num_cores() // (threads or 1))
    return list(devices) * min(num_models, num_workers)


def make_work(job: Job, context: TrainingContext, memory: PeakMemory) -> ShardedJob:
    """Return the sharded training that `job` describes."""
    return ShardedJob(job, context)
