"""A small run, done once for all tests of its page."""

from pathlib import Path

import pytest
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.optimization import TrainSettings


@pytest.fixture(scope="session")
def run(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    train = TrainSettings(epochs=3, batch_size=32, lr=3e-3, precision="fp32", early_stop=0)
    partrain.run(small_settings(train=train), folder, dataset=small, show=False)
    return folder
