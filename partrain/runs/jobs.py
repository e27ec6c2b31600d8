"""The grouping of trainings into jobs: alone, in packs, or in shards."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partrain.launch.launcher import Launcher
from partrain.launch.settings import GroupingSettings, Local
from partrain.packs.planner import PackPlanner, TimingCache
from partrain.packs.settings import Pack
from partrain.runs.prepare import PreparedRun
from partrain.shards.engine import shards_job
from partrain.shards.settings import Shards
from partrain.storage.run_folder import RENDEZVOUS, rank_name
from partrain.training.job import Job, Member, Resources
from partrain.training.task import PendingTraining


@dataclass(frozen=True, kw_only=True)
class JobPlanner:
    """A planner that groups trainings into jobs as the settings choose."""

    grouping: GroupingSettings
    launcher: Launcher
    """The launcher that will run the jobs."""
    one_process_per_core: bool = False
    """Whether trainings that are not stacked share as many processes as run at once, instead of one each."""
    show_timings: bool = False
    """Whether to print what packs were measured to gain."""
    show_progress: bool = False
    """Whether a sharded training says how models are cut and how long they will take."""
    timings: TimingCache = field(default_factory=dict)
    """Timings of packs measured so far. New ones are added."""

    def plan(self, trainings: Sequence[PendingTraining], folder: Path) -> list[Job]:
        """Return the jobs that run `trainings`, each to its end or its pause.

        Args:
            trainings: The trainings.
            folder: The folder for the files of jobs of several trainings.

        Raises:
            UserError: If a training does not fit into the memory that packs may take.
        """
        if not trainings:
            return []
        if isinstance(self.grouping, Shards):
            return [self.shards_job(trainings, self.grouping, folder)]
        planner = PackPlanner(
            settings=self.grouping if isinstance(self.grouping, Pack) else None,
            launcher=self.launcher,
            folder=folder,
            one_process_per_core=self.one_process_per_core,
            show_timings=self.show_timings,
            timings=self.timings,
        )
        return planner.plan(trainings)

    def shards_job(self, trainings: Sequence[PendingTraining], settings: Shards, folder: Path) -> Job:
        """Return the one job that trains all `trainings` in shards."""
        launch = self.launcher.settings
        return shards_job(
            folder,
            [Member(folder=one.folder, name=one.name, pause_after=one.pause_after) for one in trainings],
            self.launcher.kind,
            settings,
            threads=launch.threads if isinstance(launch.threads, int) else None,
            max_restarts=launch.max_restarts,
            processes=launch.processes if isinstance(launch, Local) else "auto",
            show_progress=self.show_progress,
        )


def rank_jobs(prepared: PreparedRun, kind: str) -> list[Job]:
    """Return the jobs of a run's gang, one for each process, on devices of this kind."""
    # A process of a pipeline computes one segment; replicas all compute the same.
    segments = prepared.plan.segments
    is_pipeline = len(segments) == len(prepared.tasks)
    costs = [segment.flops for segment in segments] if is_pipeline else [1] * len(prepared.tasks)
    rendezvous = prepared.folder / rank_name(0) / RENDEZVOUS
    jobs = []
    for (name, task), cost in zip(prepared.tasks.items(), costs, strict=True):
        folder, process = prepared.folder / name, f"process {task.index}"
        job = Job(
            folder=folder,
            kind="rank",
            name=process,
            members=(Member(folder=folder, name=process),),
            resources=Resources(kind=kind),
            cost=cost,
            gang=str(prepared.folder),
            waits_for=(rendezvous,) if task.index > 0 else (),
        )
        jobs.append(job)
    return jobs
