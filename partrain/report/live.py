"""The page of a run under way, written anew every few seconds."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from partrain.data import Dataset
from partrain.report.settings import PAGE, ReportSettings


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
        from partrain.report.page import write_page  # plotly's import takes a second, which short runs do without

        with suppress(OSError):  # e.g. a full disk, of which the training itself has more to say
            write_page(self._folder, self._dataset, refresh)
