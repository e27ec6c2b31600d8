"""Trains the configurations of a search up to a rung's epochs, packed where that pays or in shards, and scores them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partrain.data import Dataset
from partrain.data.batches import shared_training_images
from partrain.errors import JobFailed
from partrain.launch.placement import place_whole
from partrain.packs.planner import PendingTraining, TimingCache
from partrain.runs.jobs import train_work
from partrain.runs.prepare import PreparedRun, is_finished, prepare_run
from partrain.runs.run import complete
from partrain.settings import RunSettings
from partrain.stitching.stitch import assemble
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, ERROR_FILE, epoch_weights, segment_name
from partrain.tuning.settings import SearchSettings
from partrain.tuning.trainer import Trial

_BATCH = 2000  # held-out images at once
_NETWORKS = 32  # that are scored at once, but one where they may be too large for a device together


class RungTrainer:
    """A `Trainer` of configurations that have `shared` in common, on `dataset` without its last, held-out images.

    All that are to be trained at once go to one pack per device; those that no stack would make faster train one after
    another, in as many processes as the device has room for.
    """

    def __init__(self, dataset: Dataset, shared: RunSettings, settings: SearchSettings, show: bool) -> None:
        self.dataset, self.launch, self.show = dataset, shared.launch, show
        count = len(dataset.train)
        self.num_images = count - settings.held_out(count)
        self._prepared: dict[int, PreparedRun] = {}
        self._timings: TimingCache = {}  # what was tried in one wave is not tried again in the next

    def prepared(self, trial: Trial) -> PreparedRun:
        if trial.index not in self._prepared:
            run = prepare_run(trial.settings, trial.folder, self.dataset, self.num_images)
            run.write()
            self._prepared[trial.index] = run
        return self._prepared[trial.index]

    def train(self, trials: Sequence[Trial]) -> dict[int, str]:
        work: list[PendingTraining] = []
        for trial in trials:
            run = self.prepared(trial)
            for job in run.segments_left():
                if not _is_there(job.folder, trial.epochs):
                    name = f"configuration {trial.index}, {job.name}"
                    task = run.tasks[segment_name(int(job.folder.name))]
                    pending = PendingTraining(
                        folder=job.folder, task=task, name=name, cost=job.cost, pause_after=trial.epochs
                    )
                    work.append(pending)
        folder = trials[0].folder.parents[1] / self.launch.subfolder / _name(trials)
        try:
            train_work(work, self.launch, folder, show=False, advise=self.show, queue=True, timings=self._timings)
        except JobFailed:
            for pending in work:
                if not (pending.folder / ERROR_FILE).exists() and not _is_there(
                    pending.folder, pending.pause_after or 0
                ):
                    raise  # of a process, not of a configuration
        return {trial.index: reason for trial in trials if (reason := self.failure(trial))}

    def failure(self, trial: Trial) -> str | None:
        """Why the configuration cannot go on."""
        for name in self.prepared(trial).segments():
            path = trial.folder / name / ERROR_FILE
            if path.exists():
                return str(checkpoint.read_json(path)["message"])
        return None

    def score(self, trials: Sequence[Trial], metric: str) -> dict[int, float]:
        scores: dict[int, float] = {}
        at_once = 1 if self.launch.name == "shards" else _NETWORKS
        for first in range(0, len(trials), at_once):
            some = trials[first : first + at_once]
            sizes = [segment.parameters for trial in some for segment in self.prepared(trial).plan.segments]
            device = torch.device(place_whole(self.launch.device, sum(sizes)))
            networks = [self.network(trial, device) for trial in some]
            measured = self.measure(networks, metric, device)
            scores |= {trial.index: score for trial, score in zip(some, measured, strict=True)}
        return scores

    def network(self, trial: Trial, device: torch.device) -> nn.Module:
        """The configuration's network as it was after the rung's epochs."""
        run = self.prepared(trial)
        weights: dict[str, Tensor] = {}
        for name in run.segments():
            kept = _kept(trial.folder / name, trial.epochs)
            tensors, _ = checkpoint.load(kept, device)
            weights |= {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
        return assemble(run.card(), weights, device)

    def measure(self, networks: Sequence[nn.Module], metric: str, device: torch.device) -> list[float]:
        """The `metric` of each network on the held-out images."""
        images = shared_training_images(self.dataset, device)
        held_out = torch.arange(self.num_images, len(self.dataset.train), device=device)
        sums = [0.0] * len(networks)
        with torch.inference_mode():
            for indices in held_out.split(_BATCH):
                values, targets = images.gather(indices)
                for number, network in enumerate(networks):
                    scores = network(values.clone())  # a network may change its input in place
                    if metric == "validation_loss":
                        sums[number] += F.cross_entropy(scores, targets, reduction="sum").item()
                    else:
                        sums[number] += (scores.argmax(dim=1) == targets).sum().item()
        return [total / len(held_out) for total in sums]

    def finish(self, trial: Trial) -> dict[str, Any]:
        return complete(self.prepared(trial), show=False)


def _kept(folder: Path, epochs: int) -> Path:
    """Where the weights of a training after `epochs` are: it may have come to its end before."""
    paused = epoch_weights(folder, epochs)
    return paused if paused.exists() else folder / CHECKPOINT


def _is_there(folder: Path, epochs: int) -> bool:
    """Whether the training in `folder` has come to its end or to its pause after `epochs`."""
    return is_finished(folder) or epoch_weights(folder, epochs).exists()


def _name(trials: Sequence[Trial]) -> str:
    """Of a folder for the packs of these trials, the same whenever they are to be trained again."""
    text = " ".join(f"{trial.index}:{trial.epochs}" for trial in trials)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
