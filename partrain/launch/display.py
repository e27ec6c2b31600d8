"""The live view of a launch: a bar per segment on a terminal, a line per segment and epoch elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from partrain.console import console
from partrain.storage import checkpoint
from partrain.storage.run_folder import PROGRESS


class Display:
    """Shows what each segment's progress.json says; without `show`, notes alone."""

    def __init__(self, segments: Sequence[tuple[Path, str]], show: bool = True) -> None:
        self.show = show
        self._as_lines = show and not console.is_terminal
        self._names: dict[Path, str] = {}
        self._epochs: dict[Path, int] = {}
        self._seen: dict[Path, int] = {}
        self._bars: dict[Path, TaskID] = {}
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (show and console.is_terminal),
        )
        for folder, name in segments:
            self.add(folder, name)

    def __enter__(self) -> "Display":
        self._live.start()
        return self

    def add(self, folder: Path, name: str) -> None:
        """Show one more; one that was there before begins anew."""
        if folder in self._bars:
            self._live.remove_task(self._bars[folder])
        self._names[folder] = name
        self._bars[folder] = self._live.add_task(name, total=None, status="waiting")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, folder: Path) -> None:
        """Show what has changed in `folder`/progress.json since the last look."""
        path = folder / PROGRESS
        try:
            changed = path.stat().st_mtime_ns
            if changed == self._seen.get(folder):
                return
            state = checkpoint.read_json(path)
        except (FileNotFoundError, checkpoint.DamagedFile):
            return
        self._seen[folder] = changed
        self._live.update(self._bars[folder], completed=state["step"], total=state["end"], status=_status(state))
        if self._as_lines and state["epoch_ended"] and state["epoch"] != self._epochs.get(folder):
            self._epochs[folder] = state["epoch"]
            console.print(f"{self._names[folder]}: {_status(state)}")

    def done(self, folder: Path) -> None:
        self.update(folder)
        self._live.update(self._bars[folder], total=1, completed=1)

    def say(self, text: str) -> None:
        console.print(text, markup=False)


def _status(state: dict[str, Any]) -> str:
    loss, accuracy = state["loss"], state["decode_accuracy"]
    seen = "" if loss is None else f"loss {loss:.4f}  "  # only by who sees the network's output
    seen += "" if accuracy is None else f"decodes {100 * accuracy:5.1f} %  "
    status = f"epoch {state['epoch']}  {seen}{state['samples_per_second']:,.0f} samples/s"
    return f"{status}  WARNING {state['warning']}" if state.get("warning") else status
