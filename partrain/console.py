"""Where people read: rich output on a terminal, plain lines elsewhere, and one display of how far work is."""

import sys
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import TaskID

console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, soft_wrap=True, width=110)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)


class ProgressDisplay:
    """How far work is: a bar for each piece of it on a terminal; elsewhere nothing but lines.

    Within it (`with`) bars are live. Each has a key, which its owner chooses.

    Args:
        show: Whether bars and lines are wanted. What is told by `say` is printed anyway.
        percentage: Whether each bar says what percentage is done, for bars without a status of their own.
        estimate: Whether each bar ends with the time that it is likely to take.
        transient: Whether bars vanish in the end.
        to: The console; by default standard output.
    """

    def __init__(
        self,
        *,
        show: bool = True,
        percentage: bool = False,
        estimate: bool = True,
        transient: bool = False,
        to: Console | None = None,
    ) -> None:
        # here, since training processes show nothing
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._console = to or console
        self._show = show
        self._bars: dict[Hashable, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *([TaskProgressColumn()] if percentage else []),
            TextColumn("{task.fields[status]}", markup=False),
            *([TimeRemainingColumn()] if estimate else []),
            console=self._console,
            transient=transient,
            disable=not self.has_bars,
        )

    @property
    def has_bars(self) -> bool:
        """Whether bars are shown: they are wanted, and people watch a terminal."""
        return self._show and self._console.is_terminal

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.has_bars:  # elsewhere it would print an empty line
            self._progress.stop()

    def add(self, key: Hashable, name: str, total: float | None = None, completed: int = 0, status: str = "") -> None:
        """Add a bar called `name`; one that is there under `key` begins anew. `total` may be known later."""
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
        """Change what is given of the bar under `key`."""
        fields: dict[str, Any] = {} if status is None else {"status": status}
        self._progress.update(self._bars[key], completed=completed, total=total, description=name, **fields)

    def advance(self, key: Hashable, amount: float) -> None:
        """Add `amount` to what is completed of the bar under `key`."""
        self._progress.advance(self._bars[key], amount)

    def print_line(self, text: str) -> None:
        """Print `text` where there are no bars to tell it."""
        if self._show and not self.has_bars:
            self.print(text)

    def print(self, text: str) -> None:
        """Print `text`, above the bars if there are any."""
        self._console.print(text, markup=False)


class ProgressView:
    """A view of some kind of work, on a progress display that is live within it (`with`)."""

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
        """Print `text`, whether anything else is shown or not."""
        self.progress.print(text)
