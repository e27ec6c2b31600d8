"""What is shown of trainings under way: a bar each on a terminal, a line per training and epoch elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from partrain.console import ProgressDisplay, ProgressView
from partrain.storage import checkpoint
from partrain.storage.run_folder import PROGRESS


class Display(ProgressView):
    """Shows what progress.json says of each training, given by folder and name; without `show`, what is said alone."""

    def __init__(self, trainings: Sequence[tuple[Path, str]], show: bool = True, to: Console | None = None) -> None:
        super().__init__(ProgressDisplay(show=show, to=to))
        self.show = show
        self._names: dict[Path, str] = {}
        self._epochs: dict[Path, int] = {}
        self._seen: dict[Path, int] = {}
        for folder, name in trainings:
            self.add(folder, name)

    def add(self, folder: Path, name: str) -> None:
        """Show one more; one that was there before begins anew."""
        self._names[folder] = name
        self.progress.add(folder, name, status="waiting")

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
        self.progress.update(folder, completed=state["step"], total=state["end"], status=_status(state))
        if state["epoch_ended"] and state["epoch"] != self._epochs.get(folder):
            self._epochs[folder] = state["epoch"]
            self.progress.print_line(f"{self._names[folder]}: {_status(state)}")

    def done(self, folder: Path) -> None:
        self.update(folder)
        self.progress.update(folder, completed=1, total=1)


def _status(state: dict[str, Any]) -> str:
    loss, accuracy = state["loss"], state["decode_accuracy"]
    seen = "" if loss is None else f"loss {loss:.4f}  "  # only by who sees the network's output
    seen += "" if accuracy is None else f"decodes {100 * accuracy:5.1f} %  "
    status = f"epoch {state['epoch']}  {seen}{state['samples_per_second']:,.0f} samples/s"
    return f"{status}  WARNING {state['warning']}" if state.get("warning") else status
