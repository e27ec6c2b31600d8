"""A search's folder: what is written there as it goes on, and what a search that was killed goes on from."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint
from partrain.storage.run_folder import RESULTS
from partrain.tuning.configurations import Configuration


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
    def read(cls, path: Path) -> "RungResult":
        values = checkpoint.read_json(path)
        by_index = {name: {int(index): value for index, value in values[name].items()} for name in ("scores", "failed")}
        return cls(**values | by_index)


class SearchFolder:
    """Configurations, finished rungs and the seconds of waves in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def configurations(self, drawn: Sequence[Configuration]) -> list[Configuration]:
        """Those that the search began with, which are `drawn` where it begins now."""
        path = self.path / "configurations.json"
        if not path.exists():
            checkpoint.write_json(path, [asdict(each) for each in drawn])
        return [Configuration(**each) for each in checkpoint.read_json(path)]

    def drawn(self) -> list[Configuration]:
        """Those that are written down; none where the search has not begun."""
        return [Configuration(**each) for each in checkpoint.read_found(self.path / "configurations.json") or []]

    def configuration(self, index: int) -> Path:
        """The folder of the configuration's run."""
        return self.path / "configurations" / str(index)

    def rung(self, bracket: int, rung: int) -> RungResult | None:
        """What came of it; None: it is not done."""
        path = self._rung(bracket, rung)
        return RungResult.read(path) if path.exists() else None

    def rung_if_whole(self, bracket: int, rung: int) -> RungResult | None:
        """As `rung`, for those who only look: None too where the file is damaged."""
        with suppress(checkpoint.DamagedFile):
            return self.rung(bracket, rung)
        return None

    def write_rung(self, result: RungResult) -> None:
        checkpoint.write_json(self._rung(result.bracket, result.rung), asdict(result))

    def _rung(self, bracket: int, rung: int) -> Path:
        return self.path / "rungs" / f"{bracket}-{rung}.json"

    def _wave(self, wave: int) -> Path:
        return self.path / "waves" / f"{wave}.json"

    @contextmanager
    def timed(self, wave: int) -> Iterator[Callable[[], float]]:
        """Adds the time until its end to the wave's seconds; gives a function that reads them."""
        path = self._wave(wave)
        started = time.perf_counter()
        try:
            yield lambda: _seconds(path)
        finally:
            with suppress(OSError):  # on a full disk another error says so, and names what could not be saved
                spent = _seconds(path) + time.perf_counter() - started
                checkpoint.write_json(path, {"wave": wave, "seconds": spent, "failed": None})

    def end_wave(self, wave: int, failed: dict[int, str]) -> None:
        """Note that all its rungs are written, and why those failed that did in it."""
        path = self._wave(wave)
        checkpoint.write_json(path, checkpoint.read_json(path) | {"failed": failed})

    def is_done(self, wave: int) -> bool:
        path = self._wave(wave)
        return path.exists() and checkpoint.read_json(path)["failed"] is not None

    def failed(self, waves: Iterable[int]) -> dict[int, str]:
        """Why those failed that did in `waves`, which are done, by index."""
        reasons = (checkpoint.read_json(self._wave(wave))["failed"] for wave in waves)
        return {int(index): reason for found in reasons for index, reason in found.items()}

    def wave_seconds(self) -> list[float]:
        """Of each wave so far, in order."""
        paths = sorted(self.path.glob("waves/*.json"), key=lambda path: int(path.stem))
        return [wave["seconds"] for wave in map(checkpoint.read_found, paths) if wave]

    def seconds(self) -> float:
        """Of all waves so far."""
        return sum(self.wave_seconds())

    def results(self) -> dict[str, Any] | None:
        """What results.json says, once the search is done."""
        path = self.path / RESULTS
        return dict(checkpoint.read_json(path)) if path.exists() else None

    def write_results(self, results: dict[str, Any]) -> None:
        checkpoint.write_json(self.path / RESULTS, results)


def _seconds(path: Path) -> float:
    return float(checkpoint.read_json(path)["seconds"]) if path.exists() else 0.0
