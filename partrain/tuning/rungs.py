"""The trainer of a search: trains trials up to the epochs of a rung, in packs or shards where set, and scores them."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.launch.end import Failed, training_end
from partrain.launch.launcher import Launcher
from partrain.runs.jobs import JobPlanner
from partrain.runs.prepare import PreparedRun, prepare_run
from partrain.runs.run import finish_run
from partrain.settings import RunSettings
from partrain.shards.settings import Shards
from partrain.storage.run_folder import CHECKPOINT, epoch_weights
from partrain.training.completion import has_reached
from partrain.training.job import Member
from partrain.training.task import PendingTraining
from partrain.tuning.scoring import NetworkToScore, read_scores, scores_job
from partrain.tuning.trainer import TrialRun

_NETWORKS_AT_ONCE = 32  # Networks scored at once, except where they may be too large for one device together.


class RungTrainer:
    """A `Trainer` that trains the segments of all given trials at once, on all images but the held-out ones.

    Segments that train faster together form a pack on each device. All others train one after another, in as many
    processes as there is room for on the devices.

    Args:
        dataset: The data.
        shared: The settings that all trials have in common, which say how many images are held out.
        launcher: The launcher of all jobs.
        show_timings: Whether the trainer prints how many networks a pack should hold.
    """

    def __init__(
        self,
        dataset: Dataset,
        shared: RunSettings,
        launcher: Launcher,
        *,
        show_timings: bool,
    ) -> None:
        self.dataset, self.grouping, self.launcher = dataset, shared.grouping, launcher
        assert shared.data.validation is not None, "a search has held-out images"
        self.validation = shared.data.validation
        self._prepared: dict[int, PreparedRun] = {}
        self._planner = JobPlanner(
            grouping=shared.grouping, launcher=launcher, one_process_per_core=True, show_timings=show_timings
        )

    # ---- Training.

    def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
        """Train all `runs` that have not reached their epochs, and return the reason of each failure, by trial."""
        trainings = self.pending_trainings(runs)
        folder = _search_folder(runs) / self.grouping.subfolder / _group_name(runs)
        jobs = self._planner.plan(trainings, folder)
        try:
            self.launcher.run(jobs, show_progress=False)
        except JobFailed:
            if any(training_end(_member(training.folder, training.pause_after)) is None for training in trainings):
                raise  # A job failed, not a trial.
        return {run.index: reason for run in runs if (reason := self.failure(run)) is not None}

    def pending_trainings(self, runs: Sequence[TrialRun]) -> list[PendingTraining]:
        """Return the trainings of all segments that have not reached the epochs of their run."""
        trainings = []
        for run in runs:
            for training in self.prepare(run).unfinished_segments():
                if not has_reached(training.folder, run.epochs):
                    name = f"configuration {run.index}, {training.name}"
                    trainings.append(replace(training, name=name, pause_after=run.epochs))
        return trainings

    def prepare(self, run: TrialRun) -> PreparedRun:
        """Return the plan and the tasks of a run, written into its folder when it is first asked for."""
        if run.index not in self._prepared:
            prepared = prepare_run(run.settings, run.folder, self.dataset, self.launcher)
            if self._planner.show_timings and not self._prepared:  # Once for all trials.
                prepared.report_move()
            prepared.write()
            self._prepared[run.index] = prepared
        return self._prepared[run.index]

    def failure(self, run: TrialRun) -> str | None:
        """Return why a segment of the run has failed, or None."""
        for name in self.prepare(run).segment_names():
            end = training_end(_member(run.folder / name, run.epochs))
            if isinstance(end, Failed):
                return end.report.reason
        return None

    # ---- Scoring.

    def score(self, runs: Sequence[TrialRun], metric: str) -> dict[int, float]:
        """Return the `metric` of each trained network on the held-out images, by trial."""
        folder = _search_folder(runs) / "scores" / _group_name(runs)
        job = scores_job(
            folder,
            [self.network_to_score(run) for run in runs],
            self.launcher.kind,
            metric=metric,
            dataset=self.dataset,
            validation=self.validation,
            at_once=1 if isinstance(self.grouping, Shards) else _NETWORKS_AT_ONCE,
        )
        self.launcher.run([job], show_progress=False)
        return read_scores(folder)

    def network_to_score(self, run: TrialRun) -> NetworkToScore:
        """Return the network of a run as it was after the run's epochs."""
        prepared = self.prepare(run)
        return NetworkToScore(
            index=run.index,
            card=prepared.model_card(),
            weights=[weights_file(run.folder / name, run.epochs) for name in prepared.segment_names()],
            num_parameters=prepared.num_parameters,
        )

    # ---- The winner.

    def finish(self, run: TrialRun) -> dict[str, Any]:
        """Train, stitch and evaluate what is left of a run, and return the contents of its results.json."""
        return finish_run(self.prepare(run), self.launcher, show_progress=False)


def _member(segment_folder: Path, epochs: int | None) -> Member:
    """Return a segment's training up to `epochs` as a member of a job."""
    return Member(folder=segment_folder, name="", pause_after=epochs)


def weights_file(segment_folder: Path, epochs: int) -> Path:
    """Return the file of a segment's weights after `epochs` epochs, or its last ones if training has ended before.

    Raises:
        JobFailed: If it has done neither. Its checkpoint then is of fewer epochs, and no score of these.
    """
    paused = epoch_weights(segment_folder, epochs)
    if paused.exists():
        return paused
    if not has_reached(segment_folder, epochs):
        raise JobFailed(f"{segment_folder} was not trained up to epoch {epochs}", is_user_error=False)
    return segment_folder / CHECKPOINT


def _search_folder(runs: Sequence[TrialRun]) -> Path:
    """Return the folder of the search that `runs` belong to."""
    return runs[0].folder.parents[1]


def _group_name(runs: Sequence[TrialRun]) -> str:
    """Return a name for the folder of these runs' packs or shards, the same whenever they are trained again."""
    text = " ".join(f"{run.index}:{run.epochs}" for run in runs)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
