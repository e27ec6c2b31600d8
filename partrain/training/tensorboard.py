"""Where an epoch's row goes besides metrics.csv: TensorBoard, where it is asked for."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from partrain.errors import UserError
from partrain.storage.run_folder import TENSORBOARD


class EpochLog:
    """Writes rows of metrics to `folder`/tensorboard, or nowhere. `tensorboard --logdir <run>` shows all processes."""

    def __init__(self, folder: Path, *, to_tensorboard: bool) -> None:
        self._writer: Any = None
        if to_tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # 2 s and 60 MB that nobody else pays for

            self._writer = SummaryWriter(str(folder / TENSORBOARD))

    def write(self, row: dict[str, Any]) -> None:
        """Add one epoch's `row`, and let it reach the disk."""
        if self._writer is None:
            return
        for name, value in row.items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()


def check_tensorboard(wanted: bool) -> None:
    """Raise `ValueError` where TensorBoard is `wanted` and not installed."""
    if wanted and find_spec("tensorboard") is None:
        raise UserError("train.tensorboard=true needs the tensorboard package: pip install 'partrain[tensorboard]'")
