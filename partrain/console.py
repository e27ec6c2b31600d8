"""The consoles that all output goes to, and the one progress display: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import TaskID

# Paths and settings may hold what rich would take as markup or as an emoji's name.
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
console = Console(**_PLAIN) if sys.stdout.isatty() else Console(**_PLAIN, soft_wrap=True, width=110)
error_console = Console(**_PLAIN, stderr=True, soft_wrap=True)


class ProgressDisplay:
    """A context manager that shows a bar for each piece of work on a terminal, and only lines elsewhere.

    Each bar has a key, which the caller chooses.

    Args:
        show_progress: Whether to show bars, and the lines of `print_line`. What is passed to `print` is printed anyway.
        show_percentage: Whether each bar shows a percentage, for bars without a status of their own.
        show_time_left: Whether each bar ends with an estimate of the remaining time.
        is_transient: Whether the bars are erased at the end.
        output: The console, by default standard output.
    """

    def __init__(
        self,
        *,
        show_progress: bool = True,
        show_percentage: bool = False,
        show_time_left: bool = True,
        is_transient: bool = False,
        output: Console | None = None,
    ) -> None:
        # Imported here, since training processes show nothing and start faster without it.
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._console = output or console
        self._show_progress = show_progress
        self._bars: dict[Hashable, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *([TaskProgressColumn()] if show_percentage else []),
            TextColumn("{task.fields[status]}", markup=False),
            *([TimeRemainingColumn()] if show_time_left else []),
            console=self._console,
            transient=is_transient,
            disable=not self.has_bars,
        )

    @property
    def has_bars(self) -> bool:
        """Return whether bars are shown, as they are wanted and the console is a terminal."""
        return self._show_progress and self._console.is_terminal

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.has_bars:  # Without bars rich would print an empty line here.
            self._progress.stop()

    def add(self, key: Hashable, name: str, total: float | None = None, completed: int = 0, status: str = "") -> None:
        """Add a bar, in place of the one under `key` if there is one.

        Args:
            key: The key for later calls.
            name: The text before the bar.
            total: The amount of work, which `update` may also set later.
            completed: The amount that is done.
            status: The text behind the bar.
        """
        if key in self._bars:
            self._progress.remove_task(self._bars[key])
        self._bars[key] = self._progress.add_task(name, total=total, completed=completed, status=status)

    def update(
        self,
        key: Hashable,
        completed: float | None = None,
        total: float | None = None,
        name: str | None = None,
        status: str | None = None,
    ) -> None:
        """Change the bar under `key`: everything that is not None, see `add`."""
        fields: dict[str, Any] = {} if status is None else {"status": status}
        self._progress.update(self._bars[key], completed=completed, total=total, description=name, **fields)

    def advance(self, key: Hashable, amount: float) -> None:
        """Add `amount` to the completed work of the bar under `key`."""
        self._progress.advance(self._bars[key], amount)

    def print_line(self, text: str) -> None:
        """Print `text` if progress is to be shown but there are no bars that show it."""
        if self._show_progress and not self.has_bars:
            self.print(text)

    def print(self, text: str) -> None:
        """Print `text`, above the bars if there are any."""
        self._console.print(text, markup=False)


class ProgressView:
    """A context manager that shows one kind of work on a progress display. Subclasses add methods for its events.

    Args:
        progress: The display, which is live while the view is.
    """

    def __init__(self, progress: ProgressDisplay) -> None:
        self.progress = progress

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, trace)

    def print(self, text: str) -> None:
        """Print `text`, whether progress is shown or not."""
        self.progress.print(text)
