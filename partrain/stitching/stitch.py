"""The stitched network: written from trained segments, and loaded from its files.

Segments use the whole network's names for their weights, so stitching them is a matter of copying.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from partrain.boundaries.boundary import make_projections
from partrain.boundaries.labels import LABELS
from partrain.errors import UserError
from partrain.networks import NETWORKS, Chain
from partrain.networks.deferred import InitTape, materialise, record_network
from partrain.storage import checkpoint
from partrain.storage.formats import FORMAT, check_format, upgrade_labels, upgrade_network
from partrain.storage.run_folder import CHECKPOINT, MODEL_CARD, MODEL_FOLDER, MODEL_WEIGHTS, PLAN, TASK_FILE
from partrain.training.segment import build_segment
from partrain.training.state import assign_weights
from partrain.training.task import SegmentTask


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The facts of a stitched network besides its weights, stored in model.json."""

    network: dict[str, Any]
    """The settings of the network."""
    image_shape: list[int]
    classes: list[str]
    mean: float
    """The mean that images are normalised with (`partrain.normalise`)."""
    std: float
    """The standard deviation that images are normalised with."""
    cuts: list[str]
    """The names of the cuts between segments."""
    seed: int
    labels: dict[str, Any]
    """The settings of the labels."""
    projections: dict[str, tuple[int, list[int]]]
    """Boundary number and shape by cut name, for each projection between segments."""

    def make_projections(self, device: torch.device) -> dict[str, nn.Module]:
        """Return the projections of the stitched network, by cut name."""
        return make_projections(self.projections, len(self.classes), LABELS.from_dict(self.labels), self.seed, device)


def stitch(segments: list[Path], card: ModelCard, run: Path) -> None:
    """Write the network that trained segments make up into the folder of their run.

    Args:
        segments: The folders of the trained segments.
        card: The facts of the network.
        run: The run's folder.

    Raises:
        UserError: If a segment is not trained, or its weights do not fit the network.
    """
    weights: dict[str, Tensor] = {}
    for folder in segments:
        weights.update(segment_weights(folder))
    network, tape = _record(card)
    for name, tensor in network.state_dict().items():
        if name not in weights:
            # No segment computes with it, so it is as the seed made it.
            materialise(network, tape, card.seed)
            weights[name] = dict(network.state_dict())[name]
        elif weights[name].shape != tensor.shape:
            raise UserError(
                f"{name} has shape {list(weights[name].shape)}, expected {list(tensor.shape)}; the segments are of "
                "another plan, so start a new run in a new folder"
            )
    checkpoint.save(run / MODEL_WEIGHTS, weights, {"kind": "model"})
    checkpoint.write_json(run / MODEL_CARD, {"format": FORMAT, **card.__dict__})


def segment_weights(folder: Path) -> dict[str, Tensor]:
    """Return the trained weights in a segment's folder, by name.

    Raises:
        UserError: If its training has not finished, or the checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    try:
        tensors, progress = checkpoint.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: segment {folder.name} is not trained; resume the run") from None
    if not progress["finished"]:
        raise UserError(f"{path} is of an unfinished training: segment {folder.name}; resume the run")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def load(run: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Load the stitched network of a run, in eval mode.

    It takes images as `partrain.normalise` returns them. It is the network's own module. Where projections stand
    between its segments, it is a traced module with the same names.

    Args:
        run: The run's folder, or a training's folder for the segment or network that was trained there.
        device: The device to load it to.

    Raises:
        UserError: If the folder is no run's, the run has not finished, or its files are damaged.
    """
    folder = Path(run)
    if (folder / TASK_FILE).exists():
        segment = build_segment(SegmentTask.read(folder), folder, torch.device(device))
        segment.load_state_dict(segment_weights(folder))
        return segment.float().eval()
    network, tape = load_recorded(folder, device)
    return _with_projections(network, tape, read_card(folder), device)


def load_recorded(run: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, InitTape]:
    """Load the stitched network of `run` in eval mode, without projections, and its tape, which `Chain` takes.

    Raises:
        UserError: If the run has not finished, or its files are damaged.
    """
    card = read_card(run)
    network, tape = _record(card)
    path = run / MODEL_WEIGHTS
    try:
        weights, _ = checkpoint.load(path, device)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; go on with resume={run}") from None
    missing = [name for name in network.state_dict() if name not in weights]
    if missing:
        raise UserError(f"{path} lacks {missing[0]} (and {len(missing) - 1} more): a segment is missing from it")
    assign_weights(weights, network)
    network.float()  # A network trained in fp64 is used in fp32, as every other.
    materialise(network, tape, card.seed, device)  # Buffers that no file holds are made from the seed.
    return network.requires_grad_().eval(), tape


def read_card(run: Path) -> ModelCard:
    """Return the model card in a run's folder.

    Raises:
        UserError: If `run` is no run's folder, the run has not finished, or its format is not one that this version reads.
    """
    if not run.is_dir():
        raise UserError(f"run={run}: there is no such folder")
    path = run / MODEL_CARD
    if path.exists():
        values = checkpoint.read_json(path)
        if not check_format(path, values.pop("format", None)):
            values |= {"network": upgrade_network(values["network"]), "labels": upgrade_labels(values["labels"])}
        return ModelCard(**values)
    if (run / PLAN).exists():
        raise UserError(f"run={run}: the run is not finished, it has no {MODEL_FOLDER}/; go on with resume={run}")
    raise UserError(f"run={run} is no run's folder: it has neither {PLAN} nor {MODEL_CARD}")


def assemble(card: ModelCard, weights: Mapping[str, Tensor], device: torch.device | str = "cpu") -> nn.Module:
    """Return the network of `card` in eval mode with the given weights; all others are as the seed made them."""
    network, tape = _record(card)
    assign_weights(weights, network, strict=False)
    network.float()
    materialise(network, tape, card.seed, device)
    return _with_projections(network.requires_grad_().eval(), tape, card, device)


def _record(card: ModelCard) -> tuple[nn.Module, InitTape]:
    """Return the network of `card` without memory, and the tape of its initialisation."""
    settings = NETWORKS.from_dict(card.network)
    return record_network(lambda: settings.build(tuple(card.image_shape), len(card.classes)))


def _with_projections(network: nn.Module, tape: InitTape, card: ModelCard, device: torch.device | str) -> nn.Module:
    """Return `network`, or, where projections stand between its segments, a traced module with them in place."""
    if not card.projections:
        return network
    return Chain(network, tape).extract_segment(None, None, card.make_projections(torch.device(device))).eval()
