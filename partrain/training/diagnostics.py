"""Checks of a segment while it trains: a loss that is not finite, and an output that has collapsed."""

from torch import Tensor

from partrain.boundaries.boundary import OutputBoundary
from partrain.errors import UserError

_MIN_STEPS = 300
"""Steps before a decode accuracy near chance counts as a collapse."""


class TrainingError(UserError):
    """The error of a training that cannot continue. Its message names segment, epoch, step and the setting to change."""


def check_losses(losses: Tensor, segment: int, epoch: int) -> None:
    """Check the losses [steps] of an epoch so far, numbered from 0 as the epoch is.

    Raises:
        TrainingError: If a loss is not finite; the message names the first one.
    """
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise TrainingError(
            f"segment {segment}: the loss is {losses[step].item()} at epoch {epoch + 1}, step {step + 1}; "
            "lower train.lr, or train with train.precision=fp32"
        )


def collapse_warning(
    output: Tensor, boundary: OutputBoundary, accuracy: float, num_classes: int, steps: int
) -> str | None:
    """Return a warning if a segment's outputs have collapsed, so that they carry no class.

    Args:
        output: A batch of the segment's outputs [batch, *shape]. A unit is dead if it is the same over the batch.
        boundary: The boundary that decodes them.
        accuracy: The decode accuracy over the epoch, from 0 to 1.
        num_classes: Number of classes.
        steps: Steps done since the start of the training.

    Returns:
        The warning, or None if the outputs have not collapsed.
    """
    values = output.detach().float().flatten(1)
    dead = (values.std(dim=0) < 1e-6).float().mean().item()
    is_constant = boundary.scores(output.detach()).argmax(dim=1).unique().numel() == 1
    chance = 1 / num_classes
    is_near_chance = accuracy < 3 * chance and steps >= _MIN_STEPS
    if not is_near_chance and dead < 0.9 and not is_constant:
        return None

    signs = []
    if dead >= 0.5:
        signs.append(f"{dead:.0%} of its outputs are dead")
    if is_constant:
        signs.append("all of its outputs decode to one class")
    signs.append(f"decode accuracy {accuracy:.1%} (chance {chance:.1%})")
    return (
        f"the output has collapsed: {', '.join(signs)}; try labels.loss=similarity, centred codes "
        "(labels=simplex or gaussian), partition.before_activation=true, or a lower train.lr"
    )
