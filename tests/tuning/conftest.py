"""A made search, once for all tests of its page."""

from pathlib import Path

import pytest
from made_search import make_search

from partrain.tuning.page import write_search_page


@pytest.fixture(scope="session")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 49 configurations in four brackets, two of which failed."""
    return make_search(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="session")
def searched(search: Path) -> Path:
    """Its page."""
    return write_search_page(search)
