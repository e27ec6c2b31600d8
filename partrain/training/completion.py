"""The progress of the training in a folder, as its files tell it: whether it has finished or reached an epoch."""

from pathlib import Path

from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, TASK_FILE, epoch_weights


def is_finished(folder: Path) -> bool:
    """Return whether the training in `folder` has finished.

    Raises:
        DamagedFile: If its checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    return path.exists() and bool(checkpoint.load_metadata(path)["finished"])


def has_stored_outputs(folder: Path) -> bool:
    """Return whether the outputs are there that the training in `folder` stores for the next segment, if it does."""
    stored_output = checkpoint.read_json_or_empty(folder / TASK_FILE).get("stored_output")
    return stored_output is None or (folder / stored_output).exists()


def has_reached(folder: Path, epochs: int | None) -> bool:
    """Return whether the training in `folder` has finished, or has paused after `epochs` epochs.

    Raises:
        DamagedFile: If its checkpoint is damaged.
    """
    return is_finished(folder) or (epochs is not None and epoch_weights(folder, epochs).exists())
