"""Fixtures: the folder of a made search, and its page, once for all tests."""

from pathlib import Path

import pytest
from made_search import make_search

from partrain.tuning.page import write_search_page


@pytest.fixture(scope="session")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search with 49 trials in four brackets, two of which failed."""
    return make_search(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="session")
def searched(search: Path) -> Path:
    """Return the page of that search."""
    return write_search_page(search)
