"""Tests of grouping=shards: runs and searches in shards reach the results that they reach in one process a training."""

from dataclasses import replace
from pathlib import Path

import pytest
from sharding import TRAIN, settings_of
from trainings import train

import partrain
from partrain.data import Dataset, Glyphs
from partrain.device import num_cores
from partrain.errors import JobFailed
from partrain.launch.settings import Local
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.settings import Alone, Sequential
from partrain.shards import worker_pool
from partrain.shards.engine import worker_devices
from partrain.shards.settings import Shards
from partrain.storage import checkpoint
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

LAUNCH = Local(device="cpu", threads=1)
IN_SHARDS = Shards(budget_gib=0.0003)


def test_a_run_with_stored_boundaries_and_recovery(small: Dataset, tmp_path: Path) -> None:
    """Train one segment after another, each fed the left one's outputs, then the whole: three stages, all in shards."""
    settings = settings_of(
        partition=PartitionSettings(segments=2),
        schedule=Sequential(last_input="stored", recovery_epochs=1),
        launch=LAUNCH,
    )
    prepared = partrain.prepare_run(settings, tmp_path / "alone", small)
    prepared.write()
    for name in prepared.segment_names():
        train(tmp_path / "alone" / name)
    alone = partrain.run(settings, tmp_path / "alone", small, show_progress=False)
    sharded = partrain.run(replace(settings, grouping=IN_SHARDS), tmp_path / "sharded", small, show_progress=False)
    one, other = (checkpoint.load(tmp_path / name / "model/model.safetensors")[0] for name in ("alone", "sharded"))
    assert max((one[name].double() - other[name].double()).abs().max().item() for name in one) < 1e-6  # kept in fp32
    assert sharded["test_accuracy"] == alone["test_accuracy"]
    assert sharded["grouping"]["name"] == "shards"
    assert sorted(path.parent.name for path in tmp_path.glob("sharded/shards/*/timeline.csv")) == ["0", "1", "recovery"]


def test_a_search_promotes_the_same(small: Dataset, tmp_path: Path) -> None:
    settings = SearchSettings(
        method="successive_halving",
        configurations=3,
        space=["train.lr=choice(0.001,0.01,1e200)", "network.width=choice(16,32)"],
    )
    shared = settings_of(
        data=Glyphs(validation=0.1), train=replace(TRAIN, epochs=3), report=ReportSettings(page=False), launch=LAUNCH
    )
    rungs = []
    for grouping in (Alone(), IN_SHARDS):
        folder = tmp_path / grouping.name
        results = search(replace(shared, grouping=grouping), settings, folder, small, show_progress=False)
        assert not results["packed"]
        records = [checkpoint.read_json(path) for path in sorted((folder / "rungs").iterdir())]
        rungs.append([{key: value for key, value in rung.items() if key != "seconds"} for rung in records])
    assert rungs[0] == rungs[1]
    assert len(rungs[1]) == 2
    assert len(rungs[1][0]["failed"]) in (1, 2)


def test_a_run_whose_segment_fails(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(train=replace(TRAIN, lr=1e200, optimizer="sgd"), launch=LAUNCH, grouping=IN_SHARDS)
    with pytest.raises(JobFailed, match=r"^segment 0: the loss is (nan|inf) at epoch 1") as caught:
        partrain.run(settings, tmp_path, small, show_progress=False)
    assert caught.value.is_user_error


def test_who_the_workers_are() -> None:
    cores = num_cores()
    assert worker_devices(["cpu"], None, 100) == ["cpu"] * cores
    assert worker_devices(["cpu"], None, 1) == ["cpu"]
    assert worker_devices(["cpu"], cores, 100) == ["cpu"]
    assert worker_devices(["cuda:0", "cuda:1"], None, 1) == ["cuda:0", "cuda:1"]
    assert worker_devices(["cuda:1"], 1, 5) == ["cuda:1"]


def test_workers_on_one_device_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "free_bytes", lambda device, setting: 1000 if str(device) == "cuda:0" else 600)
    free = Shards()
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cpu"] * 3, free)] == [200] * 3
    assert [worker.threads for worker in worker_pool.worker_settings(["cpu"] * num_cores(), free)] == [1] * num_cores()
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cuda:0", "cuda:1"], free)] == [600, 600]
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cuda:0", "cuda:0"], free)] == [500, 500]
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cuda:0"], Shards(budget_gib=2))] == [2**31]
