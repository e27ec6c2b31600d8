"""Every model trained in shards comes to the weights that it comes to alone, wherever its shards have been."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packing import difference, write_tasks

from partrain.data import Dataset
from partrain.launch import LaunchSettings
from partrain.multi.shards.settings import ShardSettings
from partrain.multi.shards.simulator import read_loads
from partrain.multi.shards.train import train_sharded
from partrain.networks import CNNSettings, CustomSettings, MLPSettings, NetworkSettings
from partrain.optimization import TrainSettings
from partrain.partition import PartitionSettings
from partrain.segment import train
from partrain.settings import RunSettings

TOLERANCE = 1e-10  # of any weight, in fp64
TRAIN = TrainSettings(epochs=2, batch_size=64, lr=0.01, precision="fp64", early_stop=0)
TIGHT = 300_000 / 2**30  # GiB, which the network below does not fit into as one

# each with its own rate, decay, schedule, optimiser, seed and so data order
VARIED: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "train": replace(TRAIN, optimizer="adam", lr=0.003, weight_decay=0.1)},
    {"seed": 2, "train": replace(TRAIN, optimizer="sgd", momentum=0.9, warmup=0.5)},
    {"seed": 0, "train": replace(TRAIN, optimizer="sgd", momentum=0.0, epochs=1)},
]


def settings_of(**changed: Any) -> RunSettings:
    defaults: dict[str, Any] = {
        "network": MLPSettings(depth=4, width=32),
        "train": TRAIN,
        "launch": LaunchSettings(device="cpu", threads=1),
        "partition": PartitionSettings(segments=1),
    }
    return RunSettings(**{**defaults, **changed})


def sharded_and_alone(
    small: Dataset, tmp_path: Path, settings: list[RunSettings], devices: int = 2, **changed: Any
) -> tuple[Any, Any]:
    alone, sharded = (write_tasks(tmp_path / kind, small, settings) for kind in ("alone", "sharded"))
    for folder in alone:
        assert train(folder)
    how = ShardSettings(**{"budget_gib": TIGHT, **changed})
    assert train_sharded(sharded, ["cpu"] * devices, tmp_path / "shards", how, show=False) == {}
    return sharded, alone


# none of them fits into ROOM bytes as one, and every layer does
ROOM = 500_000
NETWORKS: list[NetworkSettings] = [
    MLPSettings(depth=7, width=32),
    MLPSettings(depth=6, width=32, dropout=0.3),
    MLPSettings(depth=6, width=32, normalization="layer", activation="tanh"),
    CNNSettings(channels=[8, 8], strides=[2, 1], pool_after=[2], hidden=[16]),  # with batch norm
    CustomSettings(builder="own_networks:attending"),
    CustomSettings(builder="own_networks:tied"),
    CustomSettings(builder="own_networks:frozen"),
]


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_every_kind_of_layer(small: Dataset, tmp_path: Path, activations: str) -> None:
    settings = [settings_of(**{"network": network, **varied}) for network in NETWORKS for varied in VARIED[:3]]
    how = {"activations": activations, "separate": True, "budget_gib": ROOM / 2**30}
    sharded, alone = sharded_and_alone(small, tmp_path, settings, **how)
    assert difference(sharded, alone) < TOLERANCE
    shards = [load.shards for load in read_loads(tmp_path / "shards/costs.json")]
    assert [min(shards[3 * n : 3 * n + 2]) > 1 for n in range(len(NETWORKS))] == [True] * len(NETWORKS)


@pytest.mark.parametrize(("policy", "devices"), [("longest_remaining", 1), ("fifo", 2), ("random", 3)])
def test_every_policy_and_number_of_devices(small: Dataset, tmp_path: Path, policy: str, devices: int) -> None:
    settings = [settings_of(**varied) for varied in VARIED]
    how = {"policy": policy, "double_buffer": devices != 2, "separate": devices == 3}
    assert difference(*sharded_and_alone(small, tmp_path, settings, devices, **how)) < TOLERANCE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lower_precisions_come_to_the_same_bits(small: Dataset, tmp_path: Path, precision: str) -> None:
    settings = [settings_of(seed=n, train=replace(TRAIN, precision=precision)) for n in range(3)]
    how = {"budget_gib": 140_000 / 2**30, "separate": True}
    assert difference(*sharded_and_alone(small, tmp_path, settings, **how)) == 0
    assert max(load.shards for load in read_loads(tmp_path / "shards/costs.json")) > 1


def test_segments_with_labels_of_their_own(small: Dataset, tmp_path: Path) -> None:
    """Segments need nothing of one another: to the scheduler they are models like any other."""
    settings = settings_of(partition=PartitionSettings(segments=3))
    sharded, alone = sharded_and_alone(small, tmp_path, [settings], budget_gib=1.0)
    assert len(sharded) == 3
    assert difference(sharded, alone) < TOLERANCE


def test_what_a_model_leaves_is_what_it_leaves_alone(small: Dataset, tmp_path: Path) -> None:
    (sharded,), (alone,) = sharded_and_alone(small, tmp_path, [settings_of()])
    rows = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in (sharded, alone)]
    told = ("epoch", "steps", "loss", "decode_accuracy", "learning_rate", "warning")
    assert [[row[name] for name in told] for row in rows[0]] == [[row[name] for name in told] for row in rows[1]]
    assert len(rows[0]) == 2
