"""A job: the trainings that one process runs, as plain data, and the file job.json that the process reads it from."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import JOB_FILE

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources that a job takes, all of them on one node."""

    kind: str = "cpu"
    """The kind of its devices: cpu, or that of an accelerator."""
    devices: int | None = 1
    """How many devices it takes; None for all of a node."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A training that is part of a job."""

    folder: Path
    """The training's folder, absolute."""
    name: str
    """The name in messages, e.g. "segment 0"."""
    pause_after: int | None = None
    """The epoch after which the training pauses, or None if it trains to its end."""
    stack_size: int = 1
    """How many trainings of its shape a pack stacks at most; 1 where stacking does not pay."""
    required_room: int = 1
    """How many more trainings a pack must have room for when this one starts.

    The first training of a shape requires room for a whole stack, so that a shape does not start one by one.
    """


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job: its folder, the engine that runs it, its trainings, and what it takes.

    Its owner may rewrite job.json while the job runs. The engine reads the file again at every poll.
    """

    folder: Path
    """The folder of the job, absolute. For a training alone it is the training's own."""
    kind: str
    """The engine, by its name in `partrain.launch.engines`."""
    name: str
    """The name in messages, e.g. "segment 0" or "pack of 4"."""
    members: tuple[Member, ...] = ()
    """The trainings, none for a measurement."""
    resources: Resources = field(default_factory=Resources)
    cost: float = 1.0
    """The amount of computation, in any unit that all jobs started together share."""
    gang: str | None = None
    """A name that jobs share which start and end together, as each waits for the others."""
    waits_for: tuple[Path, ...] = ()
    """Files of other jobs that this one waits for, absolute. They are sent to it when they appear."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """All else that the engine needs, as JSON can hold it."""

    def write(self) -> None:
        """Write the job to job.json in its folder, with the names of other folders relative to that."""
        values = {
            "format": _FORMAT,
            **asdict(self),
            "members": [asdict(member) | {"folder": self._relative(member.folder)} for member in self.members],
            "waits_for": [self._relative(path) for path in self.waits_for],
            "options": dict(self.options),
        }
        del values["folder"]
        checkpoint.write_json(self.folder / JOB_FILE, values)

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the job in `folder`.

        Raises:
            FileNotFoundError: If there is no job.json.
            UserError: If job.json is damaged, or of a format that this version does not read.
        """
        path = folder / JOB_FILE
        values = checkpoint.read_json(path)
        try:
            if values.pop("format") != _FORMAT:
                raise UserError(f"{path} was written by another version of partrain; continue with that version")
            members = [
                Member(**member | {"folder": _absolute(folder, member["folder"])}) for member in values["members"]
            ]
            return cls(
                **values
                | {
                    "folder": folder.absolute(),
                    "members": tuple(members),
                    "resources": Resources(**values["resources"]),
                    "waits_for": tuple(_absolute(folder, name) for name in values["waits_for"]),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise checkpoint.DamagedFile(f"{path} is damaged ({error}); delete it and resume the run") from None


class JobFile:
    """The file job.json of a job that runs, which the job's owner may rewrite.

    Args:
        job: The job as it was read or written last.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._path = job, job.folder / JOB_FILE
        self._version: tuple[int, ...] = ()

    def read_if_changed(self) -> Job | None:
        """Return the job if the file was rewritten since the last call with other contents, otherwise None."""
        version = checkpoint.file_version(self._path)
        if version == self._version:
            return None
        self._version = version
        job = Job.read(self._job.folder)
        if job == self._job:
            return None
        self._job = job
        return job


def _absolute(folder: Path, name: str) -> Path:
    """Return the absolute path of the file or folder called `name` relative to `folder`."""
    return Path(os.path.normpath(folder.absolute() / name))
