"""The rounds of a pack: which checkpoints of its members belong together, as round.json in the pack's folder says.

A member's last bits depend on which others are stacked with it at each step. A killed pack therefore resumes all members
from one round. Every member's checkpoint is in its own folder. A round counts once round.json is written, after all of
its checkpoints. Until then the checkpoints before them are kept.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, PREVIOUS_CHECKPOINT, ROUND_FILE
from partrain.training.job import Job


@dataclass(frozen=True, kw_only=True)
class PackRound:
    """A moment of a pack, between two steps of its members."""

    number: int
    """The number of the round, one more than that of the pack's round before."""
    members: dict[str, int]
    """The members that train, in their order, each with the number of the round that its checkpoint was written for.

    It is an earlier round's for a member that has done no step since.
    """
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The error reports of the members that failed just before this round, until they are in the members' folders."""
    capacity: int
    """How many members train at once at most."""
    num_entries: int
    """How many trainings the pack's job had. Each one that joined later adds one to the capacity."""

    @classmethod
    def before_first(cls, job: Job) -> Self:
        """Return the state of a pack that has no round yet.

        Rounds count from the present time, so that no two packs number the checkpoints of a training alike.
        """
        return cls(number=time.time_ns(), members={}, capacity=job.options["capacity"], num_entries=len(job.members))

    @classmethod
    def read(cls, folder: Path) -> "PackRound | None":
        """Return the last round of the pack in `folder`, or None if it has none yet.

        Raises:
            DamagedFile: If round.json is damaged.
        """
        path = folder / ROUND_FILE
        try:
            values = checkpoint.read_json(path)
            return cls(number=values.pop("round"), **values)
        except FileNotFoundError:
            return None
        except (TypeError, KeyError, AttributeError) as error:
            raise checkpoint.DamagedFile(f"{path} is damaged ({error}); delete it to have it made anew") from None

    def write(self, folder: Path) -> None:
        """Write the round to round.json in `folder`. From then on it counts."""
        values = asdict(self)
        checkpoint.write_json(folder / ROUND_FILE, {"round": values.pop("number"), **values})


def take_back(folder: Path, *, written_for: int, uncommitted: int) -> None:
    """Take the training in `folder` back to its checkpoint of a committed round, if the pack was killed within the next.

    A checkpoint that belongs to no round of the pack stays, since the training has gone on elsewhere.

    Args:
        folder: The training's folder.
        written_for: The round that the committed checkpoint was written for.
        uncommitted: The number of the round that the pack may have been killed in.
    """
    path, previous = folder / CHECKPOINT, folder / PREVIOUS_CHECKPOINT
    if _read_round(path) == uncommitted and _read_round(previous) == written_for:
        previous.replace(path)


def _read_round(path: Path) -> int | None:
    """Return the number of the round that a checkpoint was written for, or None if there is none."""
    try:
        return checkpoint.load_metadata(path).get("round")
    except (FileNotFoundError, checkpoint.DamagedFile):
        return None
