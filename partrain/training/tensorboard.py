"""The log of a training for TensorBoard, besides metrics.csv, where it is asked for."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from partrain.errors import UserError
from partrain.storage.run_folder import TENSORBOARD


class EpochLog:
    """A log of an epoch's metrics in `folder`/tensorboard; `tensorboard --logdir <run>` shows those of all processes.

    Args:
        folder: The training's folder.
        to_tensorboard: Whether anything is logged at all.
    """

    def __init__(self, folder: Path, *, to_tensorboard: bool) -> None:
        self._writer: Any = None
        if to_tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # Its import takes 2 s and 60 MB.

            self._writer = SummaryWriter(str(folder / TENSORBOARD))

    def write(self, row: dict[str, Any]) -> None:
        """Write the numbers of one epoch's row of metrics to disk."""
        if self._writer is None:
            return
        for name, value in row.items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()


def check_tensorboard_installed() -> None:
    """Raise `UserError` if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError("train.tensorboard=true needs the tensorboard package: pip install 'partrain[tensorboard]'")
