"""Errors that several parts of partrain raise or catch."""


class UserError(ValueError):
    """A mistake that the user can put right: a setting, a file or the machine is not as it must be.

    The message names the setting or file, what was found, and what to do. Commands print it in one line.
    """


class JobFailed(RuntimeError):
    """A process that trains has failed for good. The message names its training and repeats its report."""

    def __init__(self, message: str, *, is_user_error: bool) -> None:
        super().__init__(message)
        self.is_user_error = is_user_error
        """Whether the message says all there is to know, so that no traceback is needed."""
