"""The progress of the training in a folder, as its files tell it: whether it has finished or reached an epoch."""

from pathlib import Path

from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, epoch_weights


def is_finished(folder: Path) -> bool:
    """Return whether the training in `folder` has finished.

    Raises:
        DamagedFile: If its checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    return path.exists() and bool(checkpoint.load_metadata(path)["finished"])


def has_reached(folder: Path, epochs: int | None) -> bool:
    """Return whether the training in `folder` has finished, or has paused after `epochs` epochs.

    Raises:
        DamagedFile: If its checkpoint is damaged.
    """
    return is_finished(folder) or (epochs is not None and epoch_weights(folder, epochs).exists())
