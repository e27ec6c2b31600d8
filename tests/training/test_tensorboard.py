"""TensorBoard as a second place for an epoch's metrics."""

import csv
from pathlib import Path

import pytest
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.training import tensorboard
from partrain.training.optimization import TrainSettings


def test_an_epochs_metrics_are_logged_for_tensorboard_too(small: Dataset, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train = TrainSettings(epochs=3, batch_size=64, precision="fp32", early_stop=0, tensorboard=True)
    partrain.run(small_settings(train=train), tmp_path, dataset=small, show_progress=False)
    for index in (0, 1):
        with (tmp_path / f"segments/{index}/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        events = accumulator.EventAccumulator(str(tmp_path / f"segments/{index}/tensorboard")).Reload()
        for name in ("loss", "decode_accuracy", "learning_rate"):
            logged = [(event.step, event.value) for event in events.Scalars(name)]
            assert logged == [(int(row["epoch"]), pytest.approx(float(row[name]))) for row in rows]


def test_without_the_package_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        TrainSettings(tensorboard=True)
    message = "train.tensorboard=true needs the tensorboard package: pip install 'partrain[tensorboard]'"
    assert str(caught.value) == message
    assert not TrainSettings().tensorboard
