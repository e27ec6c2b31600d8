"""Optimisation of a segment: its settings, optimiser, learning-rate schedule and precision."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from partrain import checks
from partrain.device import computes_bf16, supports_fp64
from partrain.errors import UserError
from partrain.options import Settings
from partrain.training.tensorboard import check_tensorboard_installed

DEFAULT_DECAY = 0.01

PRECISIONS = ("auto", "fp32", "bf16", "fp64")


@dataclass(kw_only=True)
class TrainSettings(Settings):
    """The settings of every segment's training."""

    group: ClassVar[str] = "train"

    epochs: int = 8
    """Passes over the training images, 1 or more; segments fed synthetic samples take as many steps."""
    batch_size: int = 256
    """Images or synthetic samples per step, 1 or more."""
    lr: float = 1e-3
    """The highest learning rate of the schedule, above 0."""
    weight_decay: float | None = None
    """Weight decay of the optimiser, 0 or more. By default 1 for segments from images or stored outputs to codes under
    labels.loss=similarity, and 0.01 for all others."""
    optimizer: str = "adamw"
    """The optimiser: adamw, adam or sgd."""
    momentum: float | None = None
    """Momentum of train.optimizer=sgd, from 0 to 1. By default 0.9 for it, and no other optimiser has one."""
    precision: str = "auto"
    """The number format of forward passes: fp32, fp64, bf16 (autocast over fp32 weights) or auto. With auto it is bf16
    where the device computes in it natively, and fp32 elsewhere."""
    compile: bool = False
    """Whether segments are compiled with torch.compile."""
    early_stop: float = 0.02
    """The relative fall of the mean loss in an epoch, from 0 to 1, below which a segment fed synthetic samples stops
    early. It still trains one more epoch; 0 never stops it."""
    warmup: float = 0.1
    """Fraction of the steps, from 0 to 1, in which the learning rate rises linearly."""
    decay: float = 0.5
    """Fraction of the steps, from 0 to 1, in which the learning rate falls linearly to zero at the end."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, above 0; one is also written when training pauses, is stopped or ends. Processes that
    exchange data write theirs together, those of strategy=decoupled at the end of an epoch alone."""
    accuracy_curve: bool = False
    """Whether weights are stored after every epoch, to compute the test accuracy of the whole network at those times."""
    tensorboard: bool = False
    """Whether every epoch is logged for TensorBoard too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("train.epochs", self.epochs, 1)
        checks.at_least("train.batch_size", self.batch_size, 1)
        checks.above("train.lr", self.lr, 0)
        if self.weight_decay is not None:
            checks.at_least("train.weight_decay", self.weight_decay, 0)
        checks.one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        if self.momentum is not None:
            self._check_momentum(self.momentum)
        checks.one_of("train.precision", self.precision, PRECISIONS)
        checks.within("train.early_stop", self.early_stop, 0, 1)
        checks.within("train.warmup", self.warmup, 0, 1)
        checks.within("train.decay", self.decay, 0, 1)
        checks.above("train.checkpoint_seconds", self.checkpoint_seconds, 0)
        if self.tensorboard:
            check_tensorboard_installed()

    def _check_momentum(self, momentum: float) -> None:
        """Raise `UserError` if the optimiser has no momentum, or if it is out of range."""
        if self.optimizer != "sgd":
            raise UserError(
                "train.momentum is a setting of train.optimizer=sgd; add train.optimizer=sgd, or leave it out"
            )
        checks.within("train.momentum", momentum, 0, 1)

    @property
    def sgd_momentum(self) -> float:
        """Return the momentum of SGD, or the default where none is set."""
        return 0.9 if self.momentum is None else self.momentum


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings, default_decay: float, *, fused: bool = True
) -> torch.optim.Optimizer:
    """Return the optimiser that `settings` name.

    Args:
        parameters: The parameters to optimise.
        settings: The settings of the training.
        default_decay: The weight decay where the settings leave it open.
        fused: Whether a step is one pass over the weights, without temporaries of their size.
    """
    options: dict[str, Any] = {"momentum": settings.sgd_momentum} if settings.optimizer == "sgd" else {}
    options["weight_decay"] = default_decay if settings.weight_decay is None else settings.weight_decay
    return OPTIMIZERS[settings.optimizer](parameters, lr=settings.lr, fused=fused, **options)


def moment_names(settings: TrainSettings) -> tuple[str, ...]:
    """Return the names of the optimiser's state tensors that have a parameter's shape."""
    if settings.optimizer == "sgd":
        return ("momentum_buffer",) if settings.sgd_momentum else ()
    return ("exp_avg", "exp_avg_sq")


def learning_rate(settings: TrainSettings, step: int, end: int, planned_steps: int) -> float:
    """Return the learning rate of a step: a trapezoid over the training.

    It rises over the first `warmup` of the planned steps, is level, then falls to zero over the last `decay` of them,
    or over the steps that are left since an early stop moved the end.

    Args:
        settings: The settings of the training.
        step: The step, counted from 0.
        end: The number of steps after which training ends.
        planned_steps: The number of steps without an early stop.
    """
    rise = max(1, round(settings.warmup * planned_steps))
    fall = max(1, round(settings.decay * planned_steps))
    return settings.lr * min((step + 1) / rise, 1.0, (end - step) / fall)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `precision`, with auto replaced by bf16 where the device computes it in hardware, else by fp32.

    Raises:
        UserError: If the device does not compute in this precision.
    """
    if precision == "fp64" and not supports_fp64(device):
        raise UserError(f"train.precision=fp64: {device} does not compute in fp64; set fp32, bf16 or auto")
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(device) else "fp32"


def weight_dtype(precision: str) -> torch.dtype:
    """Return the type that weights are stored in: fp32 except in fp64."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for forward passes: autocast to bfloat16 in bf16, otherwise one that does nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
