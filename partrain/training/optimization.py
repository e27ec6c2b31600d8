"""How a segment is optimised: settings, optimiser, learning-rate schedule, precision."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from partrain import checks
from partrain.device import computes_bf16
from partrain.training.tensorboard import check_tensorboard

DEFAULT_DECAY = 0.01

PRECISIONS = ("auto", "fp32", "bf16", "fp64")


@dataclass(kw_only=True)
class TrainSettings:
    """Every segment's training.

    `weight_decay`: None takes 1 for a segment that maps real inputs to codes, 0.01 for any other: a fixed random readout
    of many units fits the training set where a trained one would not, and wants more of it.
    `precision`: bf16 is autocast over fp32 weights; auto takes it where the device computes in it natively. fp64 is for
    telling rounding from mistakes.
    `early_stop`: a segment fed synthetic samples stops once an epoch lowers its mean loss by less than this fraction
    (0: never); the learning rate then falls to zero over one more epoch.
    `warmup`, `decay`: fractions of the training in which the learning rate rises and falls, linearly.
    `checkpoint_seconds`: a checkpoint is written at least this often, and after every epoch.
    `accuracy_curve`: keep every epoch's weights until the end of the run, and tell the whole network's test accuracy at
    the time of each. `tensorboard`: log every epoch for TensorBoard too.
    """

    epochs: int = 8
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float | None = None
    optimizer: str = "adamw"
    momentum: float = 0.9
    precision: str = "auto"
    compile: bool = False
    early_stop: float = 0.02
    warmup: float = 0.1
    decay: float = 0.5
    checkpoint_seconds: float = 60.0
    accuracy_curve: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        checks.at_least("train.epochs", self.epochs, 1)
        checks.at_least("train.batch_size", self.batch_size, 1)
        checks.above("train.lr", self.lr, 0)
        if self.weight_decay is not None:
            checks.at_least("train.weight_decay", self.weight_decay, 0)
        checks.one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        checks.within("train.momentum", self.momentum, 0, 1)
        checks.one_of("train.precision", self.precision, PRECISIONS)
        checks.within("train.early_stop", self.early_stop, 0, 1)
        checks.within("train.warmup", self.warmup, 0, 1)
        checks.within("train.decay", self.decay, 0, 1)
        checks.above("train.checkpoint_seconds", self.checkpoint_seconds, 0)
        check_tensorboard(self.tensorboard)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings, decay: float, fused: bool = True
) -> torch.optim.Optimizer:
    """The optimiser that `settings` name, over `parameters`; `decay` is used where they leave the weight decay open.

    `fused`: one pass over the weights, and no temporaries of their size.
    """
    options: dict[str, Any] = {"momentum": settings.momentum} if settings.optimizer == "sgd" else {}
    options["weight_decay"] = decay if settings.weight_decay is None else settings.weight_decay
    return OPTIMIZERS[settings.optimizer](parameters, lr=settings.lr, fused=fused, **options)


def moments(settings: TrainSettings) -> tuple[str, ...]:
    """What the optimiser keeps of each parameter from step to step, in the parameter's shape."""
    if settings.optimizer == "sgd":
        return ("momentum_buffer",) if settings.momentum else ()
    return ("exp_avg", "exp_avg_sq")


def learning_rate(settings: TrainSettings, step: int, end: int, full: int) -> float:
    """The rate of `step` (from 0) of a training that ends after `end` steps and was planned to take `full`.

    A trapezoid: up over the first `warmup` of `full`, level, then down to zero over the last `decay` of `full`, or over
    what is left since an early stop moved `end`.
    """
    rise = max(1, round(settings.warmup * full))
    fall = max(1, round(settings.decay * full))
    return settings.lr * min((step + 1) / rise, 1.0, (end - step) / fall)


def resolve_precision(precision: str, device: torch.device) -> str:
    """`precision` with auto replaced by what `device` computes fast: bf16 in hardware, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(device) else "fp32"


def weight_type(precision: str) -> torch.dtype:
    """What weights are kept in."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context to run forward passes in."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
