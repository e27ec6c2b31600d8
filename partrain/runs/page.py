"""The page of a run: written at its end, and anew every few seconds while it is under way."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from partrain.data import Dataset
from partrain.report.record import RunRecord
from partrain.report.settings import ReportSettings
from partrain.runs.command import command
from partrain.storage.run_folder import PAGE


def write_run_page(folder: Path, dataset: Dataset | None = None, refresh: float | None = None) -> Path:
    """Write report.html into the run's `folder`, from what is there so far.

    `dataset`: the run's, for pictures of confused images; without it, the one that its tasks name. `refresh`: training
    goes on, and the browser is to look again after this many seconds.
    """
    from partrain.report.run_page import write_page  # plotly's import takes a second, which short runs do without

    record = RunRecord.read(folder, dataset)
    return write_page(record, _command(record), dataset, refresh)


def _command(record: RunRecord) -> str | None:
    """The command that does the run again; None for a run of arrays given from Python."""
    named = record.config.get("data", {}).get("name")
    same_data = named is not None and record.provenance.get("name", named) == named
    return command(record.config) if same_data else None


class LivePage:
    """Within it `folder`'s report.html follows the training; a failure to write it does not disturb the run."""

    def __init__(self, folder: Path, dataset: Dataset, settings: ReportSettings) -> None:
        self._folder, self._dataset, self._seconds = folder, dataset, settings.refresh
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._wanted = settings.page and settings.refresh > 0

    def __enter__(self) -> None:
        if self._wanted:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._wanted:
            self._thread.join()
            if kind is not None and (self._folder / PAGE).exists():
                self._write(None)  # or it would say for ever that training goes on

    def _follow(self) -> None:
        while not self._ended.wait(self._seconds):
            self._write(self._seconds)

    def _write(self, refresh: float | None) -> None:
        with suppress(OSError):  # e.g. a full disk, of which the training itself has more to say
            write_run_page(self._folder, self._dataset, refresh)
