"""From trained segments to one network, and back from its files: the network's own names make it a matter of copying."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from partrain.boundaries.boundary import make_projections
from partrain.boundaries.labels import LabelSettings
from partrain.errors import UserError
from partrain.networks import Chain, network_settings_from_dict
from partrain.networks.deferred import InitTape, materialise, record_network
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, MODEL_CARD, MODEL_FOLDER, MODEL_WEIGHTS, PLAN, TASK_FILE
from partrain.training.segment import build_segment
from partrain.training.state import assign_weights
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a stitched network besides its weights.

    `cuts`: names of the cuts. `projections`: boundary index and shape by cut name, where one stands. `mean`, `std`:
    images are to be scaled by them (`partrain.normalise`).
    """

    network: dict[str, Any]
    image_shape: list[int]
    classes: list[str]
    mean: float
    std: float
    cuts: list[str]
    seed: int
    labels: dict[str, Any]
    projections: dict[str, tuple[int, list[int]]]

    def make_projections(self, device: torch.device) -> dict[str, nn.Module]:
        """The projections of the stitched network, by cut name."""
        return make_projections(self.projections, len(self.classes), LabelSettings(**self.labels), self.seed, device)


def segment_weights(folder: Path) -> dict[str, Tensor]:
    """The trained weights in a segment's folder.

    Raises:
        ValueError: its training is not finished, or the checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    try:
        tensors, progress = checkpoint.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: segment {folder.name} is not trained; resume the run") from None
    if not progress["finished"]:
        raise UserError(f"{path} is of an unfinished training: segment {folder.name}; resume the run")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def stitch(segments: list[Path], card: ModelCard, run: Path) -> None:
    """Write the network that the trained `segments` (their folders) make up into the folder of their `run`."""
    weights: dict[str, Tensor] = {}
    for folder in segments:
        weights.update(segment_weights(folder))
    network, tape = _build(card)
    for name, tensor in network.state_dict().items():  # whatever no segment computes with, as it started
        if name not in weights:
            materialise(network, tape, card.seed)
            weights[name] = dict(network.state_dict())[name]
        elif weights[name].shape != tensor.shape:
            raise UserError(f"{name} has shape {list(weights[name].shape)}, expected {list(tensor.shape)}; other plan?")
    checkpoint.save(run / MODEL_WEIGHTS, weights, {"kind": "model"})
    checkpoint.write_json(run / MODEL_CARD, card.__dict__)


def _build(card: ModelCard) -> tuple[nn.Module, InitTape]:
    settings = network_settings_from_dict(card.network)
    return record_network(lambda: settings.build(tuple(card.image_shape), len(card.classes)))


def read_card(run: Path) -> ModelCard:
    """The card of the model in `run`, a run's folder.

    Raises:
        ValueError: `run` is no run's folder, or the run has not come to its stitched network.
    """
    if not run.is_dir():
        raise UserError(f"run={run}: there is no such folder")
    path = run / MODEL_CARD
    if path.exists():
        return ModelCard(**checkpoint.read_json(path))
    if (run / PLAN).exists():
        raise UserError(f"run={run}: the run is not finished, it has no {MODEL_FOLDER}/; go on with resume={run}")
    raise UserError(f"run={run} is no run's folder: it has neither {PLAN} nor {MODEL_CARD}")


def assemble(card: ModelCard, weights: Mapping[str, Tensor], device: torch.device | str = "cpu") -> nn.Module:
    """The network of `card` with these `weights` of its parts, in eval mode, as `load` gives it."""
    network, tape = _build(card)
    assign_weights(weights, network, strict=False)
    network.float()
    materialise(network, tape, card.seed, device)
    return _with_projections(network.requires_grad_(True).eval(), tape, card, device)


def _with_projections(network: nn.Module, tape: InitTape, card: ModelCard, device: torch.device | str) -> nn.Module:
    """`network` itself, or, where projections stand between its segments, a traced one with the same names."""
    if not card.projections:
        return network
    return Chain(network, tape).extract_segment(None, None, card.make_projections(torch.device(device))).eval()


def load_recorded(run: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, InitTape]:
    """The stitched network of `run` in eval mode, and its tape (which `Chain` takes)."""
    card = read_card(run)
    network, tape = _build(card)
    path = run / MODEL_WEIGHTS
    try:
        weights, _ = checkpoint.load(path, device)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; go on with resume={run}") from None
    missing = [name for name in network.state_dict() if name not in weights]
    if missing:
        raise UserError(f"{path} lacks {missing[0]} (and {len(missing) - 1} more): a segment is missing from it")
    assign_weights(weights, network)
    network.float()  # what was trained in fp64 is used in fp32, as everything else
    materialise(network, tape, card.seed, device)  # buffers that are not saved
    return network.requires_grad_(True).eval(), tape


def load(run: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """The stitched network of the run in folder `run`, in eval mode; it takes images as `partrain.normalise` gives them.

    It is the network's own module, or, where projections stand between its segments, a traced one with the same names.
    Of a task's folder, it is what was trained there: a segment, or a whole network.

    Raises:
        ValueError: the folder is no run's, the run is not finished, or its files are damaged.
    """
    folder = Path(run)
    if (folder / TASK_FILE).exists():
        segment = build_segment(SegmentTask.read(folder), folder, torch.device(device))
        segment.load_state_dict(segment_weights(folder))
        return segment.float().eval()
    network, tape = load_recorded(folder, device)
    return _with_projections(network, tape, read_card(folder), device)
