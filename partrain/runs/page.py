"""The page of a run: written at its end, and anew every few seconds while it trains."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.report.record import RunRecord
from partrain.report.settings import ReportSettings
from partrain.runs.command import train_command
from partrain.runs.config_file import read_config
from partrain.storage.run_folder import CONFIG, PAGE


def write_run_page(folder: Path, dataset: Dataset | None = None, refresh: float | None = None) -> Path:
    """Write report.html from the files that the run's folder holds so far, and return its path.

    Args:
        folder: The run's folder.
        dataset: The run's data, for pictures of confused images. By default those that its tasks name.
        refresh: Seconds until the browser is to load the page again, while the run trains. By default never.
    """
    from partrain.report.run_page import write_page  # Importing plotly takes a second, which short runs save.

    record = RunRecord.read(folder, dataset)
    return write_page(record, _command(record), dataset, refresh)


def _command(record: RunRecord) -> str | None:
    """Return the command that does the run again, or None if its data were arrays in Python."""
    name = record.config.get("data", {}).get("name")
    if name is None or record.provenance.get("name", name) != name:
        return None
    try:
        return train_command(read_config(record.folder / CONFIG))
    except UserError:  # A damaged file, or an option's name that there is no more.
        return None


class LivePage:
    """A context manager that writes the run's page every few seconds. The run ignores failures to write it.

    Args:
        folder: The run's folder.
        dataset: The run's data.
        settings: Whether there is a page at all, and how often it is written.
    """

    def __init__(self, folder: Path, dataset: Dataset, settings: ReportSettings) -> None:
        self._folder, self._dataset, self._seconds = folder, dataset, settings.refresh
        self._is_live = settings.page and settings.refresh > 0
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._write_repeatedly, daemon=True)

    def __enter__(self) -> None:
        if self._is_live:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        if not self._is_live:
            return
        self._thread.join()
        has_failed = kind is not None
        if has_failed and (self._folder / PAGE).exists():
            self._write(None)  # Otherwise the page would reload itself for ever.

    def _write_repeatedly(self) -> None:
        """Write the page until the context ends."""
        while not self._has_ended.wait(self._seconds):
            self._write(self._seconds)

    def _write(self, refresh: float | None) -> None:
        """Write the page. A full disk is ignored here, since the training itself reports it."""
        with suppress(OSError):
            write_run_page(self._folder, self._dataset, refresh)
