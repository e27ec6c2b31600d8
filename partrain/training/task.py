"""A segment task: all that training one segment needs, as plain data in the segment's own folder."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from partrain.boundaries.labels import LabelSettings
from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import TASK_FILE
from partrain.training.optimization import TrainSettings


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """Carry the boundary at `start` to the boundary at `stop` (cut names; None: the network's ends).

    `index`: the number of the segment, and of the boundary it begins at; it ends at boundary `index` + 1.
    `start_shape`, `stop_shape`: per image. `data`: the prepared data set's folder; only segment 0, or one fed stored
    outputs, opens it. `num_images`: what an epoch is. `stored_input`, `stored_output`, `initial`: files, relative to
    the task's folder: the left segment's outputs over the training set, where this one's go, weights to start from.
    `projections`: boundary index and shape by cut name, where a projection stands inside this segment.
    """

    index: int
    network: dict[str, Any]
    image_shape: list[int]
    num_classes: int
    start: str | None
    stop: str | None
    start_shape: list[int]
    stop_shape: list[int]
    labels: LabelSettings = field(default_factory=LabelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    seed: int = 0
    data: str
    num_images: int
    device: str = "cpu"
    stored_input: str | None = None
    stored_output: str | None = None
    initial: str | None = None
    projections: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def check_folder(self, folder: Path) -> None:
        """Raise `ValueError` where `folder` holds another task. The device alone may differ: a run may move."""
        path = folder / TASK_FILE
        if path.exists() and replace(self.read(folder), device=self.device) != self:
            raise UserError(f"{path} is of another plan or other settings; start a new run in a new folder")

    def write(self, folder: Path) -> None:
        """Write `folder`/task.json."""
        checkpoint.write_json(folder / TASK_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises `ValueError` where `folder` holds no task."""
        path = folder / TASK_FILE
        try:
            values = checkpoint.read_json(path)
            values["labels"] = LabelSettings(**values["labels"])
            values["train"] = TrainSettings(**values["train"])
            values["projections"] = {cut: (index, shape) for cut, (index, shape) in values["projections"].items()}
            return cls(**values)
        except FileNotFoundError:
            raise UserError(f"{folder} is no segment's folder: it has no {TASK_FILE}") from None
        except (TypeError, KeyError) as error:
            raise checkpoint.DamagedFile(f"{path} is damaged ({error})") from None
