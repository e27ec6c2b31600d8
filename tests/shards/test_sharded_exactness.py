"""Tests that every model trained in shards reaches the weights that it reaches alone, wherever its shards were."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sharding import ROOM, TIGHT, TRAIN, VARIED, settings_of
from trainings import difference, train_alone, write_tasks

from partrain.data import Dataset
from partrain.networks import CNN, MLP, CustomNetwork, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.settings import RunSettings
from partrain.shards.settings import Shards
from partrain.shards.simulator import read_loads
from partrain.shards.train import train_sharded

TOLERANCE = 1e-10
"""The largest difference of any weight, in fp64."""


def sharded_and_alone(
    small: Dataset, tmp_path: Path, settings: list[RunSettings], devices: int = 2, **changed: Any
) -> tuple[list[Path], list[Path]]:
    """Train a model of each of the settings in shards and alone, and return the folders of their tasks.

    Args:
        small: The data.
        tmp_path: The folder for both.
        settings: The settings of each model.
        devices: How many workers there are, on the CPU.
        **changed: Settings of shard parallelism.
    """
    alone = train_alone(tmp_path / "alone", small, settings)
    sharded = write_tasks(tmp_path / "sharded", small, settings)
    shard_settings = Shards(**{"budget_gib": TIGHT, **changed})
    assert train_sharded(sharded, ["cpu"] * devices, tmp_path / "shards", shard_settings, show_progress=False) == {}
    return sharded, alone


NETWORKS: list[NetworkSettings] = [
    MLP(depth=7, width=32),
    MLP(depth=6, width=32, dropout=0.3),
    MLP(depth=6, width=32, normalization="layer", activation="tanh"),
    CNN(channels=[8, 8], strides=[2, 1], pool_after=[2], hidden=[16]),  # with batch norm
    CustomNetwork(name="own_networks:attending"),
    CustomNetwork(name="own_networks:tied"),
    CustomNetwork(name="own_networks:frozen"),
]
"""Networks of all kinds of layers. Each layer fits into ROOM bytes, and no whole network does."""


EVERY_LAYER = [
    settings_of(**{"network": network, **varied, "train": replace(varied.get("train", TRAIN), epochs=1)})
    for network in NETWORKS
    for varied in VARIED[:3]
]
"""Settings of three trainings of each of the networks."""


@pytest.fixture(scope="module")
def every_layer_alone(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return train_alone(tmp_path_factory.mktemp("alone"), small, EVERY_LAYER)


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_every_kind_of_layer(small: Dataset, tmp_path: Path, every_layer_alone: list[Path], activations: str) -> None:
    sharded = write_tasks(tmp_path / "sharded", small, EVERY_LAYER)
    settings = Shards(activations=activations, separate=True, budget_gib=ROOM / 2**30)
    assert train_sharded(sharded, ["cpu"] * 2, tmp_path / "shards", settings, show_progress=False) == {}
    assert difference(sharded, every_layer_alone) < TOLERANCE
    shards = [load.num_shards for load in read_loads(tmp_path / "shards/costs.json")]
    assert [min(shards[3 * n : 3 * n + 2]) > 1 for n in range(len(NETWORKS))] == [True] * len(NETWORKS)


@pytest.mark.parametrize(("policy", "devices"), [("longest_remaining", 1), ("fifo", 2), ("random", 3)])
def test_every_policy_and_number_of_devices(small: Dataset, tmp_path: Path, policy: str, devices: int) -> None:
    settings = [settings_of(**varied) for varied in VARIED]
    changed = {"policy": policy, "double_buffer": devices != 2, "separate": devices == 3}
    assert difference(*sharded_and_alone(small, tmp_path, settings, devices, **changed)) < TOLERANCE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lower_precisions_come_to_the_same_bits(small: Dataset, tmp_path: Path, precision: str) -> None:
    settings = [settings_of(seed=n, train=replace(TRAIN, precision=precision)) for n in range(3)]
    changed = {"budget_gib": 140_000 / 2**30, "separate": True}
    assert difference(*sharded_and_alone(small, tmp_path, settings, **changed)) == 0
    assert max(load.num_shards for load in read_loads(tmp_path / "shards/costs.json")) > 1


def test_segments_with_labels_of_their_own(small: Dataset, tmp_path: Path) -> None:
    """Train segments, which do not depend on one another: to the scheduler they are models like any other."""
    settings = settings_of(partition=PartitionSettings(segments=3))
    sharded, alone = sharded_and_alone(small, tmp_path, [settings], budget_gib=1.0)
    assert len(sharded) == 3
    assert difference(sharded, alone) < TOLERANCE


def test_what_a_model_leaves_is_what_it_leaves_alone(small: Dataset, tmp_path: Path) -> None:
    (sharded,), (alone,) = sharded_and_alone(small, tmp_path, [settings_of()])
    rows = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in (sharded, alone)]
    columns = ("epoch", "steps", "loss", "decode_accuracy", "learning_rate", "warning")
    assert [[row[name] for name in columns] for row in rows[0]] == [[row[name] for name in columns] for row in rows[1]]
    assert len(rows[0]) == 2
