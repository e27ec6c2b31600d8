"""A segment that goes wrong is noticed while it trains: a loss that is no number, an output that has collapsed."""

from torch import Tensor

from partrain.boundaries.boundary import Output
from partrain.errors import UserError


class TrainingError(UserError):
    """Training cannot go on; the message names segment, epoch and step and says what to change."""


def check_losses(losses: Tensor, segment: int, epoch: int) -> None:
    """Raise `TrainingError` for the first of an epoch's `losses` so far that is not finite."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise TrainingError(
            f"segment {segment}: the loss is {losses[step].item()} at epoch {epoch + 1}, step {step + 1}; "
            "lower train.lr, or train with train.precision=fp32"
        )


_FAIR_CHANCE = 300  # steps before a decode accuracy near chance is held against a segment


def collapse_warning(output: Tensor, boundary: Output, accuracy: float, num_classes: int, step: int) -> str | None:
    """What is wrong with a batch of a segment's outputs [batch, *shape] that carry no class after `step` steps, or None.

    `accuracy`: decoded over the epoch, from 0 to 1. A unit is dead if it is the same for all of the batch.
    """
    values = output.detach().float().flatten(1)
    dead = (values.std(dim=0) < 1e-6).float().mean().item()
    constant = boundary.scores(output.detach()).argmax(dim=1).unique().numel() == 1
    chance = 1 / num_classes
    lost = accuracy < 3 * chance and step >= _FAIR_CHANCE
    if not lost and dead < 0.9 and not constant:
        return None
    signs = []
    if dead >= 0.5:
        signs.append(f"{dead:.0%} of its outputs are dead")
    if constant:
        signs.append("all of its outputs decode to one class")
    signs.append(f"decode accuracy {accuracy:.1%} (chance {chance:.1%})")
    return (
        f"the output has collapsed: {', '.join(signs)}; try labels.loss=similarity, centred codes "
        "(labels=simplex or gaussian), partition.before_activation=true, or a lower train.lr"
    )
