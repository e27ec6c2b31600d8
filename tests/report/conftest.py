"""A small run and a made search, once for all tests of their pages."""

from pathlib import Path

import pytest
from made_search import make_search
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.training.optimization import TrainSettings
from partrain.tuning.page import write_search_page


@pytest.fixture(scope="session")
def run(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    train = TrainSettings(epochs=3, batch_size=32, lr=3e-3, precision="fp32", early_stop=0)
    partrain.run(small_settings(train=train), folder, dataset=small, show=False)
    return folder


@pytest.fixture(scope="session")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 49 configurations in four brackets, two of which failed."""
    return make_search(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="session")
def searched(search: Path) -> Path:
    """Its page."""
    return write_search_page(search)
