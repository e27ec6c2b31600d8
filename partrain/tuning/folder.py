"""The folder of a search: the one place that writes and reads its files, for the search and for its pages."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint
from partrain.storage.manifest import check_manifest, write_manifest
from partrain.storage.run_folder import RESULTS, SEARCH_MANIFEST
from partrain.tuning.brackets import Bracket
from partrain.tuning.trials import Trial


@dataclass(frozen=True, kw_only=True)
class SearchManifest:
    """The contents of search.json: what is searched, with which shared settings, on which machine, in which brackets."""

    search: dict[str, Any] = field(default_factory=dict)
    """The fields of `SearchSettings`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings that all trials share, as config.yaml holds them."""
    machine: dict[str, Any] = field(default_factory=dict)
    brackets: list[Bracket] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SearchManifest":
        """Return the manifest that search.json holds as `values`."""
        return cls(**values | {"brackets": [Bracket.from_json(bracket) for bracket in values["brackets"]]})


@dataclass(frozen=True, kw_only=True)
class RungResult:
    """The result of a finished rung, with trials by their index."""

    bracket: int
    rung: int
    """The number of the rung in its bracket, from 0."""
    epochs: int
    """How many epochs its trials have trained."""
    scores: dict[int, float | None]
    """The score of each trial, or None for a trial that failed in this rung."""
    failed: dict[int, str]
    """The reason of each failure."""
    promoted: list[int]
    """The trials that train on in the next rung, best first."""
    seconds: float
    """How long the round in which the rung ended took, in seconds."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RungResult":
        """Return the result that a rung's file holds as `values`, where JSON has made texts of the indices."""
        return cls(**values | {"scores": _with_int_keys(values["scores"]), "failed": _with_int_keys(values["failed"])})


class SearchFolder:
    """The folder of a search: search.json, the trials, finished rungs, the seconds of rounds, and results.json.

    A search may not have ended, so a file that is not there is read as empty or None.

    Args:
        path: The folder.
        skip_damaged: Whether a damaged file is read as empty too, as pages do. Otherwise it raises `DamagedFile`.
    """

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        self.path = path
        self.skip_damaged = skip_damaged

    def manifest(self) -> SearchManifest:
        """Return the contents of search.json, or an empty manifest before the search has begun."""
        values = self._read(self.path / SEARCH_MANIFEST)
        return SearchManifest.from_json(values) if values else SearchManifest()

    def check_manifest(self, manifest: SearchManifest) -> None:
        """Raise `UserError` if the folder holds another search than that of `manifest`. The message says what differs."""
        path = self.path / SEARCH_MANIFEST
        check_manifest(path, _compared(manifest), "search", derived=("brackets",), ignored=("launch",))

    def write_manifest(self, manifest: SearchManifest) -> None:
        """Write search.json.

        Raises:
            UserError: If the folder holds another search. The message names what differs.
        """
        derived = {"brackets": [bracket.to_json() for bracket in manifest.brackets]}
        path = self.path / SEARCH_MANIFEST
        write_manifest(path, _compared(manifest), "search", derived=derived, ignored=("launch",))

    # ---- Trials and rungs.

    def store_trials(self, drawn: Sequence[Trial]) -> list[Trial]:
        """Write the `drawn` trials if the search is new, and return the trials that it began with."""
        if not self._trials_file.exists():
            checkpoint.write_json(self._trials_file, [asdict(trial) for trial in drawn])
        return self.trials()

    def trials(self) -> list[Trial]:
        """Return all trials of the search, by index; none before they are drawn."""
        return [Trial(**values) for values in self._read(self._trials_file) or ()]

    def run_folder(self, index: int) -> Path:
        """Return the folder of the run in which the trial with this index is trained."""
        return self.path / "configurations" / str(index)

    def rung(self, bracket: int, rung: int) -> RungResult | None:
        """Return the result of a rung, or None before it has ended."""
        values = self._read(self._rung_file(bracket, rung))
        return RungResult.from_json(values) if values else None

    def write_rung(self, result: RungResult) -> None:
        """Write the file of a finished rung."""
        checkpoint.write_json(self._rung_file(result.bracket, result.rung), asdict(result))

    # ---- Rounds. A round's file has its seconds from the first time that it began, and its failures once it has ended.

    @contextmanager
    def measure_round(self, round_number: int) -> Iterator[None]:
        """Add the time that the `with` block takes to the seconds of the round."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with suppress(OSError):  # On a full disk another error names the file that could not be saved.
                seconds = self.seconds_of_round(round_number) + time.perf_counter() - started
                values = {"wave": round_number, "seconds": seconds, "failed": None}
                checkpoint.write_json(self._round_file(round_number), values)

    def finish_round(self, round_number: int, failures: dict[int, str]) -> None:
        """Record that all rungs of the round are written, and the reason of each failure in it, by trial."""
        path = self._round_file(round_number)
        checkpoint.write_json(path, checkpoint.read_json(path) | {"failed": failures})

    def is_round_finished(self, round_number: int) -> bool:
        """Return whether the round has ended, with all its rungs written."""
        values = self._read(self._round_file(round_number))
        return bool(values) and values["failed"] is not None

    def failures(self, round_numbers: Iterable[int]) -> dict[int, str]:
        """Return the reason of each failure in these finished rounds, by trial."""
        failures: dict[int, str] = {}
        for round_number in round_numbers:
            failures |= _with_int_keys(checkpoint.read_json(self._round_file(round_number))["failed"])
        return failures

    def seconds_of_round(self, round_number: int) -> float:
        """Return how long the round has taken so far, in seconds, over all the times that it was started."""
        values = self._read(self._round_file(round_number))
        return float(values["seconds"]) if values else 0.0

    def round_seconds(self) -> list[float]:
        """Return how long each round has taken so far, in seconds, from the first round to the last one begun."""
        paths = sorted(self.path.glob("waves/*.json"), key=lambda path: int(path.stem))
        return [float(values["seconds"]) for path in paths if (values := self._read(path))]

    # ---- Results.

    def results(self) -> dict[str, Any]:
        """Return the contents of results.json; empty until the search has finished."""
        return dict(self._read(self.path / RESULTS) or {})

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, the last file of a search."""
        checkpoint.write_json(self.path / RESULTS, results)

    # ---- Files.

    @property
    def _trials_file(self) -> Path:
        return self.path / "configurations.json"

    def _rung_file(self, bracket: int, rung: int) -> Path:
        return self.path / "rungs" / f"{bracket}-{rung}.json"

    def _round_file(self, round_number: int) -> Path:
        return self.path / "waves" / f"{round_number}.json"

    def _read(self, path: Path) -> Any:
        """Return the contents of a JSON file, or an empty value before it is written."""
        if self.skip_damaged or not path.exists():
            return checkpoint.read_json_or_empty(path)
        return checkpoint.read_json(path)


def _compared(manifest: SearchManifest) -> dict[str, Any]:
    """Return what two searches must have in common to be the same one."""
    return {"search": manifest.search, "settings": manifest.settings, "machine": manifest.machine}


def _with_int_keys(values: dict[str, Any]) -> dict[int, Any]:
    """Return `values` with the trials' indices as keys, which JSON holds as texts."""
    return {int(index): value for index, value in values.items()}
