"""The errors that several parts of partrain raise or catch."""


class UserError(ValueError):
    """A mistake that the user can correct: a setting, a file or the machine is not as it must be.

    The message names the setting or file, what was found, and what to do. Commands print it in one line.
    """


class JobFailed(RuntimeError):
    """The failure for good of a process that trains. The message names the training and gives the reason.

    Args:
        message: The reason, in one line where the user can correct it.
        is_user_error: Whether the message says all that the user needs, so that no traceback is shown.
    """

    def __init__(self, message: str, *, is_user_error: bool) -> None:
        super().__init__(message)
        self.is_user_error = is_user_error
