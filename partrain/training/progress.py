"""How far a segment's training is: what a checkpoint keeps, and what people and the launcher look at meanwhile."""

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partrain.storage import checkpoint
from partrain.storage.run_folder import METRICS, PROGRESS

COLUMNS = ("epoch", "steps", "loss", "decode_accuracy", "learning_rate", "seconds", "samples_per_second", "warning")


@dataclass
class Progress:
    """Counts from the start of the training; `end` is the step it ends at, which an early stop brings forward.

    `seconds` of steps, without checkpoints; `thread_seconds`: the same times the threads at hand; `sent_bytes`,
    `received_bytes`: over the process's connections. `timeline`: when each epoch began and ended, seconds since 1970.
    """

    end: int
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    thread_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    stopped_early: bool = False
    finished: bool = False
    peak_memory_bytes: int = 0
    parameter_bytes: int = 0
    optimizer_state_bytes: int = 0
    stored_bytes: int = 0  # of outputs stored for the next segment
    epochs: list[dict[str, Any]] = field(default_factory=list)  # a row of metrics.csv each
    timeline: list[list[float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def write_metrics(self, folder: Path) -> None:
        """Rewrite `folder`/metrics.csv: it always agrees with the checkpoint."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.epochs)
        checkpoint.write_text(folder / METRICS, text.getvalue())


class EpochMeter:
    """The losses of an epoch's steps, and how many of the outputs looked at decode to their target.

    Both stay empty in a process that never sees the network's output, such as a pipeline's inner stage.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, device=device)
        self._has_losses = False
        self.decoded = torch.zeros(2, device=device)  # right, looked at

    def tensors(self) -> dict[str, Tensor]:
        return {"epoch.losses": self.losses, "epoch.decoded": self.decoded}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors()` gave."""
        self.losses, self.decoded = tensors["epoch.losses"], tensors["epoch.decoded"]
        self._has_losses = True

    def add_loss(self, number: int, loss: Tensor) -> None:
        self.losses[number] = loss.detach()
        self._has_losses = True

    def add_losses(self, number: int, losses: Tensor) -> None:
        """Those of the steps from `number` on."""
        self.losses[number : number + len(losses)] = losses
        self._has_losses = True

    def loss(self, first: int, last: int) -> float | None:
        """The mean over the epoch's steps [first, last)."""
        return self.losses[first:last].mean().item() if self._has_losses else None

    def add_scores(self, scores: Tensor, targets: Tensor) -> None:
        if targets.ndim == 2:
            targets = targets.argmax(dim=1)
        self.decoded[0] += (scores.argmax(dim=1) == targets).sum()
        self.decoded[1] += len(targets)

    def accuracy(self) -> float | None:
        right, looked_at = self.decoded.tolist()
        return right / looked_at if looked_at else None


class Heartbeat:
    """Rewrites `folder`/progress.json at most every `interval` seconds, for whoever watches."""

    def __init__(self, folder: Path, interval: float = 0.5) -> None:
        self._path = folder / PROGRESS
        self._interval = interval
        self._last = 0.0

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._interval

    def beat(self, **values: Any) -> None:
        self._last = time.monotonic()
        checkpoint.write_json(self._path, values, sync=False)  # a crash of the machine may take it
