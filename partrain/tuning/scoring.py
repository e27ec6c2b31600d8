"""The engine that scores the networks of a rung on the held-out images, in a process that ends with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partrain.data import Dataset
from partrain.data.batches import SelectedImages, validation_images
from partrain.stitching.evaluate import evaluation_device
from partrain.stitching.stitch import ModelCard, assemble
from partrain.storage import checkpoint
from partrain.storage.run_folder import SCORES
from partrain.training.context import TrainingContext
from partrain.training.job import Job, Resources
from partrain.training.meters import PeakMemory

_BATCH_SIZE = 2000  # Held-out images in a batch.


@dataclass(frozen=True, kw_only=True)
class NetworkToScore:
    """A trained network, as files of its segments' weights."""

    index: int
    """The trial's index in the search."""
    card: ModelCard
    weights: list[Path]
    """The files of the segments' weights, from left to right."""
    num_parameters: int


def scores_job(
    folder: Path,
    networks: Sequence[NetworkToScore],
    kind: str,
    *,
    metric: str,
    dataset: Dataset,
    validation: float,
    at_once: int,
) -> Job:
    """Return the job that scores networks.

    Args:
        folder: The job's folder.
        networks: The networks.
        kind: The kind of device to score them on.
        metric: The metric, "validation_accuracy" or "validation_loss".
        dataset: The data.
        validation: The fraction of the training images that is held out.
        at_once: How many networks may be on the device at the same time.
    """
    return Job(
        folder=folder,
        kind="rung_scores",
        name="the scoring of trials",
        resources=Resources(kind=kind),
        waits_for=tuple(path for network in networks for path in network.weights),
        options={
            "networks": [
                {
                    "index": network.index,
                    "card": asdict(network.card),
                    "num_files": len(network.weights),
                    "num_parameters": network.num_parameters,
                }
                for network in networks
            ],
            "metric": metric,
            "data": str(dataset.folder),
            "validation": validation,
            "at_once": at_once,
        },
    )


def read_scores(folder: Path) -> dict[int, float]:
    """Return the score of each network that the job in `folder` has scored, by its trial's index."""
    return {int(index): score for index, score in checkpoint.read_json(folder / SCORES).items()}


class RungScores:
    """The scoring of networks, which leaves their scores in the job's folder.

    Args:
        job: The job that `scores_job` returned.
        context: The device to score on, and whether to stop.
    """

    def __init__(self, job: Job, context: TrainingContext) -> None:
        self.folder, self.context = job.folder, context
        options: Mapping[str, Any] = job.options
        self.metric: str = options["metric"]
        self.at_once: int = options["at_once"]
        self.validation: float = options["validation"]
        self.dataset = Dataset.open(Path(options["data"]))
        files = iter(job.waits_for)
        self.networks = [
            NetworkToScore(
                index=values["index"],
                card=ModelCard(**values["card"]),
                weights=[next(files) for _ in range(values["num_files"])],
                num_parameters=values["num_parameters"],
            )
            for values in options["networks"]
        ]

    def run(self) -> bool:
        """Score all networks, and return whether that is done. It is not if the context asked to stop."""
        scores: dict[int, float] = {}
        for first in range(0, len(self.networks), self.at_once):
            if self.context.should_stop():
                return False
            scores |= self.score(self.networks[first : first + self.at_once])
        checkpoint.write_json(self.folder / SCORES, scores)
        return True

    def score(self, networks: Sequence[NetworkToScore]) -> dict[int, float]:
        """Return the score of each of the networks, which are on one device at the same time."""
        device = evaluation_device(self.context.device, sum(network.num_parameters for network in networks))
        images = validation_images(self.dataset, device, self.validation)
        modules = [load_network(network, device) for network in networks]
        scores = measure(modules, images, self.metric)
        return {network.index: score for network, score in zip(networks, scores, strict=True)}


def make_work(job: Job, context: TrainingContext, memory: PeakMemory) -> RungScores:
    """Return the scoring that `job` describes."""
    return RungScores(job, context)


def load_network(network: NetworkToScore, device: torch.device) -> nn.Module:
    """Return a network with its weights, in eval mode."""
    weights: dict[str, Tensor] = {}
    for path in network.weights:
        tensors, _ = checkpoint.load(path, device)
        weights |= {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return assemble(network.card, weights, device)


def measure(networks: Sequence[nn.Module], images: SelectedImages, metric: str) -> list[float]:
    """Return the `metric` of each network, averaged over the images."""
    totals = [0.0] * len(networks)
    with torch.inference_mode():
        for batch in torch.arange(len(images), device=images.device).split(_BATCH_SIZE):
            inputs, targets = images.gather(batch)
            for number, network in enumerate(networks):
                outputs = network(inputs.clone())  # A network may change its input in place.
                totals[number] += _sum_metric(metric, outputs, targets)
    return [total / len(images) for total in totals]


def _sum_metric(metric: str, outputs: Tensor, targets: Tensor) -> float:
    """Return the metric of class scores `outputs` [batch, classes], summed over the batch."""
    if metric == "validation_loss":
        return F.cross_entropy(outputs, targets, reduction="sum").item()
    return (outputs.argmax(dim=1) == targets).sum().item()
