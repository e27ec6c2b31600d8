"""The trainer of a search: trains trials up to the epochs of a rung, in packs or shards where set, and scores them."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partrain.data import Dataset
from partrain.data.batches import shared_training_images
from partrain.errors import JobFailed
from partrain.launch.error_report import read_error_report
from partrain.launch.placement import choose_evaluation_device
from partrain.packs.planner import PackPlanner, PendingTraining, TimingCache
from partrain.runs.prepare import PreparedRun, is_finished, prepare_run
from partrain.runs.run import finish_run
from partrain.runs.stages import train_stage
from partrain.settings import RunSettings
from partrain.shards.settings import ShardSettings
from partrain.stitching.stitch import assemble
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, epoch_weights
from partrain.tuning.settings import SearchSettings
from partrain.tuning.trainer import TrialRun

_BATCH_SIZE = 2000  # Held-out images in a batch.
_NETWORKS_AT_ONCE = 32  # Networks scored at once, except where they may be too large for one device together.


class RungTrainer:
    """A `Trainer` that trains the segments of all given trials at once, on all images but the held-out ones.

    Segments that train faster together form one pack for each device. All others train one after another, in as many
    processes as there is room for on the devices.

    Args:
        dataset: The data. Its last training images are held out.
        shared: The settings that all trials have in common.
        settings: The settings of the search, which say how many images are held out.
        show_advice: Whether the trainer prints how many networks a pack should hold.
    """

    def __init__(self, dataset: Dataset, shared: RunSettings, settings: SearchSettings, *, show_advice: bool) -> None:
        self.dataset, self.show_advice = dataset, show_advice
        self.grouping, self.launch = shared.grouping, shared.launch
        num_images = len(dataset.train)
        self.num_images = num_images - settings.held_out(num_images)
        self._prepared: dict[int, PreparedRun] = {}
        self._timings: TimingCache = {}  # Of stack sizes; later rounds need not measure them again.

    # ---- Training.

    def train(self, runs: Sequence[TrialRun]) -> dict[int, str]:
        """Train all `runs` that have not reached their epochs, and return the reason of each failure, by trial."""
        trainings = self.pending_trainings(runs)
        planner = PackPlanner(
            grouping=self.grouping,
            launch=self.launch,
            folder=runs[0].folder.parents[1] / self.grouping.subfolder / _group_name(runs),
            one_process_per_core=True,
            show_timings=self.show_advice,
            timings=self._timings,
        )
        try:
            train_stage(trainings, planner, show_progress=False)
        except JobFailed:
            if not all(_has_ended(training) for training in trainings):
                raise  # A process failed, not a trial.
        return {run.index: reason for run in runs if (reason := self.failure(run)) is not None}

    def pending_trainings(self, runs: Sequence[TrialRun]) -> list[PendingTraining]:
        """Return the trainings of all segments that have not reached the epochs of their run."""
        trainings = []
        for run in runs:
            for training in self.prepare(run).unfinished_segments():
                if not _has_trained(training.folder, run.epochs):
                    name = f"configuration {run.index}, {training.name}"
                    trainings.append(replace(training, name=name, pause_after=run.epochs))
        return trainings

    def prepare(self, run: TrialRun) -> PreparedRun:
        """Return the plan and the tasks of a run, written into its folder when it is first asked for."""
        if run.index not in self._prepared:
            prepared = prepare_run(run.settings, run.folder, self.dataset, self.num_images)
            prepared.write()
            self._prepared[run.index] = prepared
        return self._prepared[run.index]

    def failure(self, run: TrialRun) -> str | None:
        """Return why a segment of the run has failed, or None."""
        for name in self.prepare(run).segment_names():
            report = read_error_report(run.folder / name)
            if report is not None:
                return report.reason
        return None

    # ---- Scoring.

    def score(self, runs: Sequence[TrialRun], metric: str) -> dict[int, float]:
        """Return the `metric` of each trained network on the held-out images, by trial."""
        at_once = 1 if isinstance(self.grouping, ShardSettings) else _NETWORKS_AT_ONCE
        scores: dict[int, float] = {}
        for first in range(0, len(runs), at_once):
            scores |= self.score_together(runs[first : first + at_once], metric)
        return scores

    def score_together(self, runs: Sequence[TrialRun], metric: str) -> dict[int, float]:
        """Return the scores of runs whose networks are on one device at the same time, by trial."""
        plans = [self.prepare(run).plan for run in runs]
        num_parameters = sum(segment.parameters for plan in plans for segment in plan.segments)
        device = torch.device(choose_evaluation_device(self.launch.device, num_parameters))
        networks = [self.load_network(run, device) for run in runs]
        scores = self.measure(networks, metric, device)
        return {run.index: score for run, score in zip(runs, scores, strict=True)}

    def load_network(self, run: TrialRun, device: torch.device) -> nn.Module:
        """Return the stitched network of a run, as it was after the run's epochs."""
        prepared = self.prepare(run)
        weights: dict[str, Tensor] = {}
        for name in prepared.segment_names():
            tensors, _ = checkpoint.load(_weights_file(run.folder / name, run.epochs), device)
            weights |= {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
        return assemble(prepared.model_card(), weights, device)

    def measure(self, networks: Sequence[nn.Module], metric: str, device: torch.device) -> list[float]:
        """Return the `metric` of each network, averaged over the held-out images."""
        images = shared_training_images(self.dataset, device)
        held_out = torch.arange(self.num_images, len(self.dataset.train), device=device)
        totals = [0.0] * len(networks)
        with torch.inference_mode():
            for indices in held_out.split(_BATCH_SIZE):
                inputs, targets = images.gather(indices)
                for number, network in enumerate(networks):
                    outputs = network(inputs.clone())  # A network may change its input in place.
                    totals[number] += _sum_metric(metric, outputs, targets)
        return [total / len(held_out) for total in totals]

    # ---- The winner.

    def finish(self, run: TrialRun) -> dict[str, Any]:
        """Train, stitch and evaluate what is left of a run, and return the contents of its results.json."""
        return finish_run(self.prepare(run), show_progress=False)


def _sum_metric(metric: str, outputs: Tensor, targets: Tensor) -> float:
    """Return the metric of class scores `outputs` [batch, classes], summed over the batch."""
    if metric == "validation_loss":
        return F.cross_entropy(outputs, targets, reduction="sum").item()
    return (outputs.argmax(dim=1) == targets).sum().item()


def _weights_file(segment_folder: Path, epochs: int) -> Path:
    """Return the file of a segment's weights after `epochs` epochs, or its last ones if training has ended before."""
    paused = epoch_weights(segment_folder, epochs)
    return paused if paused.exists() else segment_folder / CHECKPOINT


def _has_trained(segment_folder: Path, epochs: int) -> bool:
    """Return whether a segment's training has ended, or paused after `epochs` epochs."""
    return is_finished(segment_folder) or epoch_weights(segment_folder, epochs).exists()


def _has_ended(training: PendingTraining) -> bool:
    """Return whether a training has failed, ended or paused, so that its files say how far it is."""
    has_failed = read_error_report(training.folder) is not None
    return has_failed or _has_trained(training.folder, training.pause_after or 0)


def _group_name(runs: Sequence[TrialRun]) -> str:
    """Return a name for the folder of these runs' packs or shards, the same whenever they are trained again."""
    text = " ".join(f"{run.index}:{run.epochs}" for run in runs)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
