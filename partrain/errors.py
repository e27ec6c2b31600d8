"""Errors that several parts of partrain raise or catch."""


class SegmentFailed(RuntimeError):
    """A segment failed for good; the message holds its index and its own report. `clear`: no traceback is needed."""

    def __init__(self, message: str, clear: bool) -> None:
        super().__init__(message)
        self.clear = clear
