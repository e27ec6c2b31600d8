"""Tests of a search's folder: a missing file is empty; a damaged one is an error for the search, not for its pages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partrain.storage import checkpoint
from partrain.tuning.folder import SearchFolder, SearchManifest

READERS: dict[str, Callable[[SearchFolder], Any]] = {
    "search.json": SearchFolder.manifest,
    "configurations.json": SearchFolder.trials,
    "rungs/1-0.json": lambda folder: folder.rung(1, 0),
    "waves/0.json": SearchFolder.round_seconds,
    "results.json": SearchFolder.results,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_or_damaged(name: str, tmp_path: Path) -> None:
    empty = {"search.json": SearchManifest(), "rungs/1-0.json": None, "results.json": {}}.get(name, [])
    read, path = READERS[name], tmp_path / name
    assert read(SearchFolder(tmp_path)) == read(SearchFolder(tmp_path, skip_damaged=True)) == empty
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"half": ')
    assert read(SearchFolder(tmp_path, skip_damaged=True)) == empty
    with pytest.raises(checkpoint.DamagedFile, match=name):
        read(SearchFolder(tmp_path))
