"""The progress of trainings in other processes: a bar each on a terminal, a line per training and epoch elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from partrain.console import ProgressDisplay, ProgressView
from partrain.storage import checkpoint
from partrain.storage.run_folder import MESSAGES, PROGRESS


class Display(ProgressView):
    """A view of what progress.json in each training's folder reports.

    Args:
        trainings: The folder and the name of each training.
        show_progress: Whether to show bars or lines. What is passed to `print` is printed anyway.
        output: The console, by default standard output.
    """

    def __init__(
        self, trainings: Sequence[tuple[Path, str]], *, show_progress: bool = True, output: Console | None = None
    ) -> None:
        super().__init__(ProgressDisplay(show_progress=show_progress, output=output))
        self.show_progress = show_progress
        self._names: dict[Path, str] = {}
        self._epochs: dict[Path, int] = {}
        """The last epoch that a line was printed for."""
        self._file_versions: dict[Path, tuple[int, ...]] = {}
        """The version of each progress.json that is shown."""
        self._message_ends: dict[Path, int] = {}
        """How many bytes of each job's messages are shown."""
        for folder, name in trainings:
            self.add(folder, name)

    def add(self, folder: Path, name: str) -> None:
        """Show one more training. A training that is added again starts with an empty bar."""
        self._names[folder] = name
        self.progress.add(folder, name, status="waiting")

    def update(self, folder: Path) -> None:
        """Read progress.json in `folder`, and show it if it has changed."""
        path = folder / PROGRESS
        version = checkpoint.file_version(path)
        if version == self._file_versions.get(folder, ()):
            return
        try:
            state = checkpoint.read_json(path)
        except (FileNotFoundError, checkpoint.DamagedFile):
            return

        self._file_versions[folder] = version
        self.progress.update(folder, completed=state["step"], total=state["end"], status=_status(state))
        if state["epoch_ended"] and state["epoch"] != self._epochs.get(folder):
            self._epochs[folder] = state["epoch"]
            self.progress.print_line(f"{self._names[folder]}: {_status(state)}")

    def print_messages(self, job_folder: Path) -> None:
        """Print the lines that a job has added to its messages, those of earlier starts left out."""
        path = job_folder / MESSAGES
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        shown = self._message_ends.setdefault(job_folder, size)
        if size <= shown:
            return
        with path.open("rb") as file:
            file.seek(shown)
            text = file.read(size - shown)
        complete = text[: text.rfind(b"\n") + 1]
        self._message_ends[job_folder] = shown + len(complete)
        for line in complete.decode(errors="replace").splitlines():
            self.print(line)

    def finish(self, folder: Path) -> None:
        """Show the training in `folder` as finished."""
        self.update(folder)
        self.progress.update(folder, completed=1, total=1)


def _status(state: dict[str, Any]) -> str:
    """Return one line on the state of a training, without the metrics that its process never sees."""
    words = [f"epoch {state['epoch']}"]
    if state["loss"] is not None:
        words.append(f"loss {state['loss']:.4f}")
    if state["decode_accuracy"] is not None:
        words.append(f"decodes {100 * state['decode_accuracy']:5.1f} %")
    words.append(f"{state['samples_per_second']:,.0f} samples/s")
    if state.get("warning"):
        words.append(f"WARNING {state['warning']}")
    return "  ".join(words)
