"""Tests that every conventional strategy ends with end to end's weights, in fp64, from the same weights and batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.networks import CNNSettings, MLPSettings, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.strategies.settings import StrategySettings
from partrain.training.optimization import TrainSettings

TOLERANCE = 1e-11  # The largest difference of any weight; sums are computed in another order.

MLP = MLPSettings(depth=4, width=32)
CNN = CNNSettings(channels=[8, 8], strides=[2, 2], hidden=[16])  # It has batch normalisation.


def train(strategy: str, segments: int, network: NetworkSettings, optimizer: str, folder: Path, data: Dataset) -> Any:
    """Train by a strategy and return the results."""
    settings = small_settings(
        network=network,
        partition=PartitionSettings(segments=segments),
        strategy=StrategySettings(name=strategy, microbatches=3),
        train=TrainSettings(epochs=4, batch_size=96, lr=1e-2, optimizer=optimizer, precision="fp64", early_stop=0),
    )
    return partrain.run(settings, folder, dataset=data, show_progress=False)


def difference(run: Path, other: Path) -> float:
    """Return the largest difference of any weight of two networks."""
    ours, theirs = (checkpoint.load(folder / "model/model.safetensors")[0] for folder in (run, other))
    assert ours.keys() == theirs.keys()
    assert torch.float64 in {tensor.dtype for tensor in ours.values()}
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.fixture(scope="module")
def end_to_end(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Return the folders and results of end-to-end runs, by the name of their network."""
    runs = {}
    for name, network, optimizer in (("mlp", MLP, "adamw"), ("sgd", MLP, "sgd"), ("cnn", CNN, "adamw")):
        folder = tmp_path_factory.mktemp(name)
        runs[name] = folder, train("end_to_end", 1, network, optimizer, folder, small)
    return runs


@pytest.mark.parametrize(
    ("strategy", "segments", "like"),
    [
        ("data_parallel", 2, "mlp"),
        ("data_parallel", 3, "sgd"),
        ("fully_sharded", 2, "mlp"),
        ("fully_sharded", 3, "sgd"),
        ("model_parallel", 3, "cnn"),
        ("gpipe", 2, "mlp"),
        ("1f1b", 3, "sgd"),
    ],
)
def test_it_comes_to_the_weights_of_end_to_end(
    strategy: str, segments: int, like: str, small: Dataset, tmp_path: Path, end_to_end: dict[str, tuple[Path, Any]]
) -> None:
    network, optimizer = CNN if like == "cnn" else MLP, "sgd" if like == "sgd" else "adamw"
    results = train(strategy, segments, network, optimizer, tmp_path, small)
    reference, expected = end_to_end[like]
    assert difference(tmp_path, reference) < TOLERANCE
    assert results["test_accuracy"] == expected["test_accuracy"]
    last = checkpoint.load_metadata(tmp_path / f"ranks/{segments - 1}/checkpoint.safetensors")
    assert last["step"] == 24
    if strategy not in ("data_parallel", "fully_sharded"):  # Their processes see only their own shares.
        whole = checkpoint.load_metadata(reference / "segments/0/checkpoint.safetensors")
        losses = [[row["loss"] for row in progress["epochs"]] for progress in (last, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("strategy", ["data_parallel", "fully_sharded", "gpipe"])
def test_feature_maps_cross_and_are_sharded(strategy: str, small: Dataset, tmp_path: Path) -> None:
    """Train without comparing with end to end, since batch normalisation sees a share of the batch."""
    results = train(strategy, 2, CNN, "adamw", tmp_path, small)
    assert results["test_accuracy"] > 0.9


def test_decoupled_segments_learn_without_gradients_between_them(small: Dataset, tmp_path: Path) -> None:
    results = train("decoupled", 3, CNN, "adamw", tmp_path, small)
    assert results["test_accuracy"] > 0.9
    assert [part["decode_accuracy"] for part in results["segments"]] == [None] * 3
    first = checkpoint.load(tmp_path / "ranks/0/checkpoint.safetensors")[0]
    assert not any("classifier" in name for name in first)
    assert torch.equal(partrain.load(tmp_path).state_dict()["conv0.weight"], first["model.conv0.weight"].float())
