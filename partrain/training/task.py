"""The task of a segment: all that its training needs, as plain data in its own folder."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from partrain.boundaries.labels import LABELS, LabelSettings, SimplexLabels
from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.formats import FORMAT, check_format, upgrade_labels, upgrade_network, upgrade_train
from partrain.storage.run_folder import TASK_FILE
from partrain.training.optimization import TrainSettings


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """The task of one segment: to carry the boundary at cut `start` to the boundary at cut `stop`."""

    index: int
    """The number of the segment, and of the boundary it begins at. It ends at boundary `index` + 1."""
    network: dict[str, Any]
    """The settings of the whole network."""
    image_shape: list[int]
    num_classes: int
    start: str | None
    """The name of the cut at which the segment begins, or None for the network's input."""
    stop: str | None
    """The name of the cut at which the segment ends, or None for the network's output."""
    start_shape: list[int]
    """The shape at `start`, per image."""
    stop_shape: list[int]
    """The shape at `stop`, per image."""
    labels: LabelSettings = field(default_factory=SimplexLabels)
    train: TrainSettings = field(default_factory=TrainSettings)
    seed: int = 0
    data: str
    """The folder of the prepared data set. Only a segment that reads images or stored outputs opens it."""
    num_images: int
    """The number of training images, or of synthetic samples in their place, in an epoch."""
    validation: float | None = None
    """The fraction of the data set's training images that is held out, `data.validation`."""
    device: str = "cpu"
    """The kind of device to train on. Which one of its kind is decided when the training is launched."""
    stored_input: str | None = None
    """The file of the left segment's stored outputs, relative to the task's folder. By default inputs are synthetic."""
    stored_output: str | None = None
    """The file for this segment's outputs over the training set, relative to the task's folder."""
    initial: str | None = None
    """The file of weights to start from, relative to the task's folder. By default they are drawn from the seed."""
    projections: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    """Boundary number and shape by cut name, for each projection inside this segment."""

    def check_folder(self, folder: Path) -> None:
        """Raise `UserError` if `folder` holds another task. The device may differ, since a run may move.

        Tasks of earlier versions leave the precision to the device, and name the files of stored outputs otherwise.
        """
        path = folder / TASK_FILE
        if not path.exists():
            return
        written = replace(self.read(folder), device=self.device)
        if written.train.precision == "auto":
            written = replace(written, train=replace(written.train, precision=self.train.precision))
        if written.stored_input and self.stored_input:
            written = replace(written, stored_input=self.stored_input)
        if written.stored_output and self.stored_output:
            written = replace(written, stored_output=self.stored_output)
        if written != self:
            raise UserError(f"{path} is of another plan or other settings; start a new run in a new folder")

    def write(self, folder: Path) -> None:
        """Write the task to task.json in `folder`."""
        checkpoint.write_json(folder / TASK_FILE, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the task in `folder`.

        Raises:
            UserError: If the folder holds no task, a damaged one, or one of a format that this version does not read.
        """
        path = folder / TASK_FILE
        try:
            values = checkpoint.read_json(path)
            if not check_format(path, values.pop("format", None)):
                values |= {
                    "network": upgrade_network(values["network"]),
                    "labels": upgrade_labels(values["labels"]),
                    "train": upgrade_train(values["train"]),
                }
            values["labels"] = LABELS.from_dict(values["labels"])
            values["train"] = TrainSettings(**values["train"])
            values["projections"] = {cut: (index, shape) for cut, (index, shape) in values["projections"].items()}
            return cls(**values)
        except FileNotFoundError:
            raise UserError(f"{folder} is no segment's folder: it has no {TASK_FILE}") from None
        except (TypeError, KeyError) as error:
            raise checkpoint.DamagedFile(f"{path} is damaged ({error})") from None


@dataclass(frozen=True, kw_only=True)
class PendingTraining:
    """A training that is to run until its end or its pause."""

    folder: Path
    task: SegmentTask
    name: str
    """The name that messages give it."""
    cost: float
    """Its amount of computation, in a unit that all trainings of a plan share."""
    pause_after: int | None = None
    """The epoch after which it pauses, or None if it trains to its end."""
