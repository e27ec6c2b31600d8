"""Tests that every training of a pack ends with the weights that it has alone, whatever trains beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import TRAIN, make_pack, settings_of
from trainings import difference, train, write_tasks

import partrain
from partrain.boundaries.labels import SimplexLabels
from partrain.data import Dataset
from partrain.networks import CNN, MLP, CustomNetwork, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.settings import RunSettings

TOLERANCE = 1e-10  # The largest difference of any weight, in fp64.
# Each has its own rate, decay, schedule, optimiser and seed, and so its own data order.
VARIED: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "train": replace(TRAIN, lr=0.003, weight_decay=0.1)},
    {"seed": 2, "train": replace(TRAIN, optimizer="sgd", momentum=0.9, warmup=0.5)},
    {"seed": 3, "train": replace(TRAIN, optimizer="adam", decay=1.0)},
    {"seed": 0, "train": replace(TRAIN, optimizer="sgd", momentum=0.0, epochs=2)},
    {"seed": 0, "train": replace(TRAIN, lr=0.02)},
]


def packed_and_alone(small: Dataset, tmp_path: Path, settings: list[RunSettings], **pack: Any) -> tuple[Any, Any]:
    """Do the same trainings in a pack and alone, and return the folders of either."""
    alone, packed = (write_tasks(tmp_path / kind, small, settings) for kind in ("alone", "packed"))
    for folder in alone:
        assert train(folder)
    trained_pack = make_pack(tmp_path / "pack", packed, **pack)
    assert trained_pack.run()
    assert not trained_pack.failures
    return packed, alone


NETWORKS: dict[str, NetworkSettings] = {
    "linear": MLP(depth=4, width=32),
    "dropout": MLP(depth=3, width=32, dropout=0.3),
    "batch norm": CustomNetwork(name="own_networks:normed"),
    "layer norm": MLP(depth=3, width=32, normalization="layer", activation="tanh"),
    "convolution": CNN(channels=[8, 8], strides=[2, 1], pool_after=[2], hidden=[16]),
    "convolution without norm": CNN(channels=[8], strides=[1], hidden=[16], normalization="none"),
    "attention": CustomNetwork(name="own_networks:attending"),
    "layers without a way of their own": CustomNetwork(name="own_networks:unusual"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_layer(small: Dataset, tmp_path: Path, name: str) -> None:
    settings = [settings_of(**{"network": NETWORKS[name], **varied}) for varied in VARIED]
    assert difference(*packed_and_alone(small, tmp_path, settings)) < TOLERANCE


@pytest.mark.parametrize("loss", ["similarity", "mse"])
@pytest.mark.parametrize("network", [MLP(depth=4, width=32), CNN(channels=[8] * 4, strides=[2, 1, 1, 1])])
def test_segments_of_one_network(small: Dataset, tmp_path: Path, loss: str, network: NetworkSettings) -> None:
    """Train the first and the last segment beside a stack of those between, on samples of their own boundaries."""
    settings = settings_of(
        network=network, labels=SimplexLabels(loss=loss), partition=PartitionSettings(segments=4), train=TRAIN
    )
    assert difference(*packed_and_alone(small, tmp_path, [settings])) < TOLERANCE


def test_data_sets_of_their_own(small: Dataset, tmp_path: Path) -> None:
    """Stack tasks of two data sets, which have only the shape of their images in common."""
    other = Dataset.from_arrays(
        *(255 - small.train.images, small.train.labels, small.test.images, small.test.labels), folder=tmp_path / "other"
    )
    settings = [settings_of(seed=n) for n in range(2)]
    folders = {}
    for kind in ("alone", "packed"):
        folders[kind] = [
            *write_tasks(tmp_path / kind / "a", small, settings),
            *write_tasks(tmp_path / kind / "b", other, settings),
        ]
    for folder in folders["alone"]:
        train(folder)
    assert make_pack(tmp_path / "pack", folders["packed"]).run()
    assert difference(folders["packed"], folders["alone"]) < TOLERANCE


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_lower_precisions_differ_by_rounding(small: Dataset, tmp_path: Path, precision: str, tolerance: float) -> None:
    """Compare weights after 30 steps of SGD; they differ since sums are computed in another order."""
    train_settings = replace(TRAIN, precision=precision, optimizer="sgd", lr=0.05)
    settings = [settings_of(seed=n, train=train_settings) for n in range(3)]
    assert difference(*packed_and_alone(small, tmp_path, settings)) < tolerance


def test_networks_of_other_shapes_step_beside_one_another(small: Dataset, tmp_path: Path) -> None:
    settings = [
        settings_of(network=MLP(depth=2, width=8)),
        settings_of(network=MLP(depth=3, width=8, activation="silu")),
        settings_of(network=MLP(depth=2, width=8), train=replace(TRAIN, batch_size=32)),
        settings_of(network=CNN(channels=[4], strides=[2], hidden=[8])),
    ]
    assert difference(*packed_and_alone(small, tmp_path, settings)) < TOLERANCE


def test_networks_whose_modules_share_weights_step_beside_one_another(small: Dataset, tmp_path: Path) -> None:
    """Train networks that are not stacked, since a stack would give every module weights of its own."""
    settings = [settings_of(seed=n, network=CustomNetwork(name="own_networks:tied")) for n in range(2)]
    assert difference(*packed_and_alone(small, tmp_path, settings)) < TOLERANCE
    weights_of = partrain.load(tmp_path / "packed/0/segments/0").state_dict()
    assert torch.equal(weights_of["3.weight"], weights_of["7.weight"])
