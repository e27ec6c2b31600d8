"""The progress of a training: the counts in its checkpoint, the meter of the present epoch, and progress.json."""

import csv
import io
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partrain.storage import checkpoint
from partrain.storage.run_folder import METRICS

COLUMNS = ("epoch", "steps", "loss", "decode_accuracy", "learning_rate", "seconds", "samples_per_second", "warning")


@dataclass
class Progress:
    """The counts of a training, from its start and over all processes that worked on it."""

    end: int
    """The step at which training ends. An early stop brings it forward."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Seconds of training, without checkpoints."""
    cpu_seconds: float = 0.0
    thread_seconds: float = 0.0
    """Seconds of training times the number of threads at hand."""
    sent_bytes: int = 0
    received_bytes: int = 0
    stopped_early: bool = False
    finished: bool = False
    host: str = ""
    """The name of the machine that trained last."""
    device: str = ""
    """The name of the device that trained last."""
    processor: str = ""
    """The product name of that device."""
    peak_memory_bytes: int | None = 0
    """Memory of the process at its peak, in bytes, or None if devices of its kind do not report it."""
    parameter_bytes: int = 0
    optimizer_state_bytes: int = 0
    stored_bytes: int = 0
    """Bytes of outputs stored for the next segment."""
    round: int | None = None
    """The number of the pack's round that the checkpoint is part of, or None if it is part of none."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """The rows of metrics.csv, one per epoch."""
    timeline: list[list[float]] = field(default_factory=list)
    """When each epoch began and ended, in seconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return asdict(self)

    def write_metrics(self, folder: Path, *, sync: bool = True) -> None:
        """Write metrics.csv in `folder`, whole. It has all epochs of the checkpoint and may have later ones.

        Args:
            folder: The training's folder.
            sync: Whether to wait until the file is on the disk.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.epochs)
        checkpoint.write_text(folder / METRICS, text.getvalue(), sync=sync)


class EpochMeter:
    """The losses of an epoch's steps, and how many of the measured outputs decode to their target.

    Both stay empty in a process that never sees the network's output, such as an inner stage of a pipeline.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, device=device)
        self._has_losses = False
        self.decoded = torch.zeros(2, device=device)
        """How many outputs decode to their target, and how many were measured."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the meter's tensors for a checkpoint, by name; none if it is empty."""
        if not self._has_losses:
            return {}
        return {"epoch.losses": self.losses, "epoch.decoded": self.decoded}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors that `tensors` returned, which may be among others."""
        if "epoch.losses" in tensors:
            self.losses, self.decoded = tensors["epoch.losses"], tensors["epoch.decoded"]
            self._has_losses = True

    def add_loss(self, step: int, loss: Tensor) -> None:
        """Record the loss, a scalar, of the epoch's step number `step`, counted from 0."""
        self.losses[step] = loss.detach()
        self._has_losses = True

    def add_losses(self, first_step: int, losses: Tensor) -> None:
        """Record the losses [n] of n steps of the epoch, from number `first_step` on."""
        self.losses[first_step : first_step + len(losses)] = losses
        self._has_losses = True

    def loss(self, first: int, last: int) -> float | None:
        """Return the mean loss of the epoch's steps [first, last), or None where no loss is known."""
        return self.losses[first:last].mean().item() if self._has_losses else None

    def add_scores(self, scores: Tensor, targets: Tensor) -> None:
        """Count how many of `scores` [batch, classes] are highest at their target.

        Targets are class numbers [batch], or class probabilities [batch, classes], of which the largest counts.
        """
        if targets.ndim == 2:
            targets = targets.argmax(dim=1)
        self.decoded[0] += (scores.argmax(dim=1) == targets).sum()
        self.decoded[1] += len(targets)

    def accuracy(self) -> float | None:
        """Return the part of the measured outputs that decode to their target, or None if none was measured."""
        correct, measured = self.decoded.tolist()
        return correct / measured if measured else None


class Heartbeat:
    """The clock of a training's reports, which are `interval` seconds apart or more."""

    def __init__(self, interval: float = 0.5) -> None:
        self._interval = interval
        self._last = -math.inf

    def is_due(self) -> bool:
        """Return whether `interval` seconds have passed since the last beat."""
        return time.monotonic() - self._last >= self._interval

    def beat(self) -> None:
        """Start the interval anew."""
        self._last = time.monotonic()
