"""A search's folder: the one place that writes and reads its files, for the search and for its pages."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint
from partrain.storage.run_folder import RESULTS, SEARCH_MANIFEST
from partrain.tuning.brackets import Bracket
from partrain.tuning.configurations import Configuration


@dataclass(frozen=True, kw_only=True)
class SearchManifest:
    """The contents of search.json: what is searched, with which shared settings, on which machine, in which brackets."""

    search: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    brackets: list[Bracket] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SearchManifest":
        """Return the manifest that search.json holds as `values`."""
        return cls(**values | {"brackets": [Bracket.from_json(each) for each in values["brackets"]]})


@dataclass(frozen=True, kw_only=True)
class RungResult:
    """Rung number `rung` of a bracket, done: the scores of its configurations by index (None: failed, why is in `failed`).

    `promoted`, best first, go on to the next rung. `seconds`: of the wave that the rung was part of.
    """

    bracket: int
    rung: int
    epochs: int
    scores: dict[int, float | None]
    failed: dict[int, str]
    promoted: list[int]
    seconds: float

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RungResult":
        """Return the result that a rung's file holds as `values`: JSON has text for the indices."""
        by_index = {name: {int(index): value for index, value in values[name].items()} for name in ("scores", "failed")}
        return cls(**values | by_index)


class SearchFolder:
    """The files of a search in `path`: what is planned and drawn, finished rungs, seconds of waves, results.

    What is not there yet reads as empty or None: a search may be under way or have been killed. With `skip_damaged` so
    does a damaged file, for pages; else it raises `DamagedFile`.
    """

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        self.path = path
        self.skip_damaged = skip_damaged

    def manifest(self) -> SearchManifest:
        """Return what search.json says; an empty manifest before the search has begun."""
        values = self._read(self.path / SEARCH_MANIFEST)
        return SearchManifest.from_json(values) if values else SearchManifest()

    def draw(self, drawn: Sequence[Configuration]) -> list[Configuration]:
        """Write the `drawn` configurations where the search begins now; return those that it began with."""
        if not self._configurations_file.exists():
            checkpoint.write_json(self._configurations_file, [asdict(each) for each in drawn])
        return self.configurations()

    def configurations(self) -> list[Configuration]:
        """Return all configurations of the search, by index; none before they are drawn."""
        return [Configuration(**each) for each in self._read(self._configurations_file) or ()]

    def run_folder(self, index: int) -> Path:
        """Return the folder of the run of configuration `index`."""
        return self.path / "configurations" / str(index)

    def rung(self, bracket: int, rung: int) -> RungResult | None:
        """Return the result of a bracket's rung; None if it is not done."""
        values = self._read(self._rung_file(bracket, rung))
        return RungResult.from_json(values) if values else None

    def write_rung(self, result: RungResult) -> None:
        """Write the file of a finished rung."""
        checkpoint.write_json(self._rung_file(result.bracket, result.rung), asdict(result))

    @contextmanager
    def timed(self, wave: int) -> Iterator[Callable[[], float]]:
        """Add the time until its end to the wave's seconds; gives a function that reads them."""
        path = self._wave_file(wave)
        started = time.perf_counter()
        try:
            yield lambda: self._seconds(path)
        finally:
            with suppress(OSError):  # on a full disk another error says so, and names what could not be saved
                spent = self._seconds(path) + time.perf_counter() - started
                checkpoint.write_json(path, {"wave": wave, "seconds": spent, "failed": None})

    def end_wave(self, wave: int, failed: dict[int, str]) -> None:
        """Write that all rungs of the wave are there, and why those failed that did in it."""
        path = self._wave_file(wave)
        checkpoint.write_json(path, checkpoint.read_json(path) | {"failed": failed})

    def is_done(self, wave: int) -> bool:
        """Return whether the wave has ended, with all its rungs written."""
        values = self._read(self._wave_file(wave))
        return bool(values) and values["failed"] is not None

    def failed(self, waves: Iterable[int]) -> dict[int, str]:
        """Return why those failed that did in `waves`, which are done, by index."""
        reasons = (checkpoint.read_json(self._wave_file(wave))["failed"] for wave in waves)
        return {int(index): reason for found in reasons for index, reason in found.items()}

    def wave_seconds(self) -> list[float]:
        """Return the seconds of each wave so far, first to last."""
        paths = sorted(self.path.glob("waves/*.json"), key=lambda path: int(path.stem))
        return [float(values["seconds"]) for path in paths if (values := self._read(path))]

    def results(self) -> dict[str, Any]:
        """Return what results.json says; empty until the search is done."""
        return dict(self._read(self.path / RESULTS) or {})

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, the last file of a search."""
        checkpoint.write_json(self.path / RESULTS, results)

    @property
    def _configurations_file(self) -> Path:
        return self.path / "configurations.json"

    def _rung_file(self, bracket: int, rung: int) -> Path:
        return self.path / "rungs" / f"{bracket}-{rung}.json"

    def _wave_file(self, wave: int) -> Path:
        return self.path / "waves" / f"{wave}.json"

    def _seconds(self, wave_file: Path) -> float:
        values = self._read(wave_file)
        return float(values["seconds"]) if values else 0.0

    def _read(self, path: Path) -> Any:
        """Return what a JSON file says; empty where there is none yet."""
        if self.skip_damaged or not path.exists():
            return checkpoint.read_json_or_empty(path)
        return checkpoint.read_json(path)
