"""The file error.json of a training that failed: its writer, its reader, and the error that the launcher raises for it."""

import sysconfig
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from partrain.errors import JobFailed, UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import ERROR_FILE

# Code in these folders is not the user's: partrain, torch, Python's own library and installed packages.
_LIBRARIES = (
    Path(__file__).resolve().parents[1],
    Path(torch.__file__).resolve().parent,
    Path(sysconfig.get_path("stdlib")).resolve(),
)
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """An error that ended a training, as its process wrote it to error.json."""

    type: str
    """The name of the exception's class, or an empty text if a process ended without one.

    The message then is the end of a sentence that begins with the training's name.
    """
    message: str
    clear: bool
    """Whether the message says all that the user needs, so that the traceback is not shown."""
    traceback: str
    file: str | None = None
    """The innermost file of the user's own code on the way to the error, or None if it has none there."""
    line: int | None = None
    """The line in `file`, counted from 1."""

    @classmethod
    def from_exception(cls, error: Exception) -> "ErrorReport":
        """Return the report of `error`."""
        if isinstance(error, ReportedError):
            return error.report
        file, line = _innermost_user_line(error)
        return cls(
            type=type(error).__name__,
            message=str(error),
            clear=_is_clear(error),
            traceback="".join(traceback.format_exception(error)),
            file=file,
            line=line,
        )

    @property
    def reason(self) -> str:
        """Return the message, or the name of the exception's class if the message is empty."""
        return self.message.strip() or self.type

    def failure(self, name: str, traceback_file: Path) -> JobFailed:
        """Return the error for the user.

        Args:
            name: The name of the training in messages, e.g. "segment 0".
            traceback_file: The file that the message refers to for the traceback.
        """
        if not self.type:
            return JobFailed(f"{capitalised(name)} {self.message}", is_user_error=True)
        if self.clear:
            return JobFailed(_prefixed(name, self.message), is_user_error=True)
        reason = f"{self.type}: {self.message}" if self.message else self.type
        if self.file is None:
            return JobFailed(f"{capitalised(name)} failed: {reason}\n{self.traceback}", is_user_error=False)

        place = f"{_shortest_path(self.file)}, line {self.line}"
        reason = " ".join(reason.split()).rstrip(".")
        message = f"{capitalised(name)} failed in {place}: {reason}. The full traceback is in {traceback_file}."
        return JobFailed(message, is_user_error=True)


class ReportedError(Exception):
    """An error of another process. Unlike an exception of a user's class, it can be sent from there.

    Args:
        report: The report of the error.
    """

    def __init__(self, report: ErrorReport) -> None:
        super().__init__(report.reason)
        self.report = report

    def __reduce__(self) -> "tuple[type[ReportedError], tuple[ErrorReport]]":
        return ReportedError, (self.report,)


def write_error_report(folder: Path, error: Exception) -> None:
    """Write to error.json in `folder` why its training failed."""
    checkpoint.write_json(folder / ERROR_FILE, asdict(ErrorReport.from_exception(error)))


def read_error_report(folder: Path) -> ErrorReport | None:
    """Return what error.json in `folder` reports, or None if there is no such file or it is damaged.

    A training whose report is damaged is therefore tried again.
    """
    try:
        return ErrorReport(**checkpoint.read_json(folder / ERROR_FILE))
    except (FileNotFoundError, UserError, TypeError):
        return None


def raise_failures(failures: Sequence[JobFailed]) -> None:
    """Raise `failures` as one error with a line or more for each; do nothing if there are none."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        message = "\n".join(sorted(map(str, failures)))
        raise JobFailed(message, is_user_error=all(failure.is_user_error for failure in failures))


def with_sentence(message: str, sentence: str) -> str:
    """Return `message`, which may lack its full stop, followed by one more sentence."""
    return f"{message.rstrip().removesuffix('.')}. {sentence}"


def capitalised(text: str) -> str:
    """Return `text` with its first letter in upper case and the others as they are."""
    return text[:1].upper() + text[1:]


def _is_clear(error: Exception) -> bool:
    """Return whether the message of `error` says all that the user needs."""
    if isinstance(error, JobFailed):
        return error.is_user_error
    return isinstance(error, UserError | OSError | torch.OutOfMemoryError)


def _prefixed(name: str, message: str) -> str:
    """Return `message` with the training's name before it, unless the message has it already."""
    if name.lower() in message.lower():
        return message
    segment = name.rpartition(", ")[2]  # With several runs at once the name is like "run a, segment 0".
    if message.lower().startswith(f"{segment.lower()}: "):
        message = message[len(segment) + 2 :]
    return f"{capitalised(name)}: {message}"


def _innermost_user_line(error: Exception) -> tuple[str | None, int | None]:
    """Return the file and line of the innermost frame of `error` that is in the user's own code, if any is."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_user_code(frame.filename):
            return frame.filename, frame.lineno
    return None, None


def _is_user_code(filename: str) -> bool:
    """Return whether `filename` is a file of the user's rather than a library's, or code that has no file."""
    path = Path(filename).resolve()
    if not path.is_file() or _PACKAGE_FOLDERS.intersection(path.parts):
        return False
    return not any(path.is_relative_to(library) for library in _LIBRARIES)


def _shortest_path(file: str) -> Path:
    """Return `file` relative to the working directory if it is below it, otherwise as it is."""
    path = Path(file)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
