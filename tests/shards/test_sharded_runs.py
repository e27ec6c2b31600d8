"""Tests of launch=shards: runs and searches in shards reach the results that they reach in one process a training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_accelerator import KIND, MadeUpAccelerator, make_up_accelerator
from sharding import TRAIN, settings_of
from trainings import train

import partrain
from partrain.data import Dataset
from partrain.device import num_cores
from partrain.errors import JobFailed, UserError
from partrain.launch import placement
from partrain.launch.placement import choose_evaluation_device, worker_devices
from partrain.launch.settings import LaunchSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.settings import ScheduleSettings
from partrain.shards import worker_pool
from partrain.shards.settings import ShardSettings
from partrain.storage import checkpoint
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

LOCAL = LaunchSettings(device="cpu", threads=1)
TIGHT = ShardSettings(budget_gib=0.0003)
IN_SHARDS = LaunchSettings(name="shards", device="cpu", threads=1, shards=TIGHT)


def test_a_run_with_stored_boundaries_and_recovery(small: Dataset, tmp_path: Path) -> None:
    """Train one segment after another, each fed the left one's outputs, then the whole: three stages, all in shards."""
    settings = settings_of(
        partition=PartitionSettings(segments=2),
        schedule=ScheduleSettings(name="sequential", last_input="stored", recovery_epochs=1),
        launch=LOCAL,
    )
    prepared = partrain.prepare_run(settings, tmp_path / "local", small)
    prepared.write()
    for name in prepared.segment_names():
        train(tmp_path / "local" / name)
    local = partrain.run(settings, tmp_path / "local", small, show_progress=False)
    sharded = partrain.run(replace(settings, launch=IN_SHARDS), tmp_path / "sharded", small, show_progress=False)
    one, other = (checkpoint.load(tmp_path / name / "model/model.safetensors")[0] for name in ("local", "sharded"))
    assert max((one[name].double() - other[name].double()).abs().max().item() for name in one) < 1e-6  # kept in fp32
    assert sharded["test_accuracy"] == local["test_accuracy"]
    assert sharded["launch"]["name"] == "shards"
    assert sorted(path.parent.name for path in tmp_path.glob("sharded/shards/*/timeline.csv")) == ["0", "1", "recovery"]


def test_a_search_promotes_the_same(small: Dataset, tmp_path: Path) -> None:
    settings = SearchSettings(
        method="successive_halving",
        configurations=3,
        space=["train.lr=choice(0.001,0.01,1e200)", "network.width=choice(16,32)"],
    )
    shared = settings_of(train=replace(TRAIN, epochs=3), report=ReportSettings(page=False), launch=LOCAL)
    rungs = []
    for name, launch in (("local", LOCAL), ("shards", IN_SHARDS)):
        results = search(replace(shared, launch=launch), settings, tmp_path / name, small, show_progress=False)
        assert not results["packed"]
        records = [checkpoint.read_json(path) for path in sorted((tmp_path / name / "rungs").iterdir())]
        rungs.append([{key: value for key, value in rung.items() if key != "seconds"} for rung in records])
    assert rungs[0] == rungs[1]
    assert len(rungs[1]) == 2
    assert len(rungs[1][0]["failed"]) in (1, 2)


def test_a_run_whose_segment_fails(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(train=replace(TRAIN, lr=1e200, optimizer="sgd"), launch=IN_SHARDS)
    with pytest.raises(JobFailed, match=r"^segment 0: the loss is (nan|inf) at epoch 1") as caught:
        partrain.run(settings, tmp_path, small, show_progress=False)
    assert caught.value.is_user_error


def test_who_the_workers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = num_cores()
    assert worker_devices("cpu", "auto", 100) == ["cpu"] * cores
    assert worker_devices("cpu", "auto", 1) == ["cpu"]
    assert worker_devices("cpu", cores, 100) == ["cpu"]
    with pytest.raises(UserError, match=r"^launch.device=tpu: there is no such device here; available: "):
        worker_devices("tpu", "auto", 1)
    monkeypatch.setattr(placement, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert worker_devices("auto", "auto", 1) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda:1", "auto", 5) == ["cuda:1"]
    assert worker_devices("cpu", cores, 5) == ["cpu"]


def test_workers_on_one_device_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "free_bytes", lambda device, setting: 1000 if str(device) == "cuda:0" else 600)
    free = ShardSettings()
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cpu"] * 3, free)] == [200] * 3
    assert [worker.threads for worker in worker_pool.worker_settings(["cpu"] * num_cores(), free)] == [1] * num_cores()
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cuda:0", "cuda:1"], free)] == [600, 600]
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cuda:0", "cuda:0"], free)] == [500, 500]
    assert [worker.budget_bytes for worker in worker_pool.worker_settings(["cuda:0"], ShardSettings(budget_gib=2))] == [
        2**31
    ]


def test_a_device_that_does_not_report_its_memory_needs_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    make_up_accelerator(monkeypatch)
    monkeypatch.delattr(MadeUpAccelerator, "mem_get_info")
    device = f"{KIND}:1"
    [worker] = worker_pool.worker_settings([device], ShardSettings(budget_gib=2))
    assert (worker.budget_bytes, worker.uses_separate_buffers) == (2**31, True)
    with pytest.raises(UserError) as caught:
        worker_pool.worker_settings([device], ShardSettings())
    message = f"{device} does not report how much of its memory is free; set launch.shards.budget_gib"
    assert str(caught.value) == message


def test_a_network_that_a_gpu_has_no_room_for_is_evaluated_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "available_devices", lambda: ["cpu", "cuda:0"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8000, 10000))
    assert choose_evaluation_device("auto", 1000) == "cuda:0"
    assert choose_evaluation_device("auto", 1001) == "cpu"
    assert choose_evaluation_device("cpu", 1001) == "cpu"
