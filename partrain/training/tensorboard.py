"""The log of a training for TensorBoard, besides metrics.csv, where it is asked for."""

import io
import os
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from partrain.errors import UserError
from partrain.storage.run_folder import TENSORBOARD


class EpochLog:
    """A log of an epoch's metrics in `folder`/tensorboard; `tensorboard --logdir <run>` shows those of all processes.

    The file is open while an epoch is logged and never else. torch's SummaryWriter has a thread and an open file until
    it is closed, for each training of a pack.

    Args:
        folder: The training's folder.
        to_tensorboard: Whether anything is logged at all.
    """

    def __init__(self, folder: Path, *, to_tensorboard: bool) -> None:
        self._folder = folder / TENSORBOARD
        self._to_tensorboard = to_tensorboard
        self._file: Path | None = None
        """The file of events that the next epoch is appended to, or None if it is the first of a new file."""

    def write(self, row: dict[str, Any]) -> None:
        """Write the numbers of one epoch's row of metrics. A full disk is ignored, since the checkpoint reports it."""
        if not self._to_tensorboard:
            return
        records = _encode(row, is_first=self._file is None)
        file, self._file = self._file or self._new_file(), None
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as events:
                events.write(records)
            self._file = file  # Nothing is appended to a file that may end in half a record.

    def _new_file(self) -> Path:
        """Return a name for a file of events. TensorBoard reads the files of a folder in the order of their names."""
        return self._folder / f"events.out.tfevents.{time.time_ns()}.{os.uname().nodename}.{os.getpid()}"


def _encode(row: dict[str, Any], *, is_first: bool) -> bytes:
    """Return an epoch's numbers as records of an event file, after the record of the format if they are its first."""
    from tensorboard.compat.proto.event_pb2 import Event  # Imported here, since most trainings need none of it.
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer, now = io.BytesIO(), time.time()
    records = RecordWriter(buffer)
    if is_first:
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if isinstance(value, int | float) and name != "epoch"
    ]
    records.write(Event(wall_time=now, step=row["epoch"], summary=Summary(value=values)).SerializeToString())
    return buffer.getvalue()


def check_tensorboard_installed() -> None:
    """Raise `UserError` if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError("train.tensorboard=true needs the tensorboard package: pip install 'partrain[tensorboard]'")
