"""The ends of jobs and of trainings, in one form for every place where jobs run and for every grouping."""

from contextlib import suppress
from dataclasses import dataclass

from partrain.launch.error_report import ErrorReport, read_error_report
from partrain.storage.checkpoint import DamagedFile
from partrain.training.completion import has_reached, has_stored_outputs
from partrain.training.job import Member


@dataclass(frozen=True)
class Done:
    """The end of a job that did all of its work."""


@dataclass(frozen=True)
class Stopped:
    """The end of a job that wrote a checkpoint and stopped, as something asked it to."""


@dataclass(frozen=True)
class Failed:
    """The end of a job by an error, which another attempt would meet again."""

    report: ErrorReport


@dataclass(frozen=True)
class Lost:
    """The end of a job that another attempt may bring further: its process was killed, or its node is gone."""

    why: str
    """The end of a sentence that begins with the job's name, such as "was killed by SIGKILL"."""
    counts: bool = True
    """Whether this end counts as one of the job's restarts. A lost node does not."""


End = Done | Stopped | Failed | Lost
"""The end of a job, or of one of its trainings."""


def training_end(member: Member) -> Done | Failed | None:
    """Return how a training of a job has ended, as its own folder says, whatever the grouping.

    None if the folder says nothing, so that another attempt would go on with the training.
    """
    with suppress(DamagedFile):  # Its process, which could not read the checkpoint, has reported that.
        if has_reached(member.folder, member.pause_after) and has_stored_outputs(member.folder):
            return Done()
    report = read_error_report(member.folder)
    return None if report is None else Failed(report)
