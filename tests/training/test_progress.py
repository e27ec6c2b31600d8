"""What a training writes for people while it trains, and that it needs none of it."""

from pathlib import Path

import pytest
import torch
from scripting import small_settings
from trainings import train, weights, write_tasks

from partrain.data import Dataset
from partrain.storage import checkpoint
from partrain.training.context import LocalContext
from partrain.training.optimization import TrainSettings
from partrain.training.progress import Heartbeat


def test_what_is_for_those_who_watch_ends_nothing_if_it_cannot_be_written(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(train=TrainSettings(epochs=2, batch_size=64, precision="fp32", early_stop=0))
    undisturbed, disturbed = (write_tasks(tmp_path / name, small, [settings])[1] for name in "ab")
    assert train(undisturbed)
    assert checkpoint.read_json(undisturbed / "progress.json")["epoch"] == 2

    write_atomic, refused = checkpoint.write_atomic, []

    def write(path: Path, *arguments: object, **options: bool) -> None:
        is_for_watching = path.name == "metrics.csv" and not options.get("sync", True)
        if path.name == "progress.json" or is_for_watching:
            refused.append(path.name)
            raise OSError(28, "No space left on device")
        write_atomic(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    assert train(disturbed)
    assert set(refused) == {"progress.json", "metrics.csv"}
    assert not (disturbed / "progress.json").exists()
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(weights(disturbed)[name], tensor), name


def test_a_report_that_fails_is_made_again_after_the_interval(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()  # a folder, which no file can replace
    heartbeat = Heartbeat(interval=1e12)  # seconds, longer than any machine has been up
    assert heartbeat.is_due()
    heartbeat.beat()
    LocalContext().report(tmp_path, {"step": 1})
    assert not heartbeat.is_due()
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
