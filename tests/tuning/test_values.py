"""Tests of a trial's values: put into the settings, and refused where a setting cannot have them."""

from typing import Any

import pytest

from partrain.boundaries.labels import SparseLabels
from partrain.data.settings import Glyphs
from partrain.errors import UserError
from partrain.networks import CNN, MLP, CustomNetwork, TorchvisionModel
from partrain.partition.plan import PartitionSettings
from partrain.settings import RunSettings, Sequential
from partrain.training.optimization import TrainSettings
from partrain.tuning.values import apply_values, check_names, format_values

SHARED = RunSettings(
    seed=7,
    data=Glyphs(limit_train=600),
    network=MLP(depth=4, width=64),
    train=TrainSettings(epochs=9, lr=0.5),
)


def test_values_take_the_place_of_the_shared_ones() -> None:
    values = {
        "train.lr": 0.25,
        "seed": 3,
        "network.width": 32,
        "partition.at": [1, "linear2"],
        "partition.before_activation": True,
        "labels": "sparse",
        "labels.noise": 2,
        "schedule": "sequential",
        "train.compile": True,
        "train.weight_decay": None,
    }
    assert apply_values(SHARED, values) == RunSettings(
        seed=3,
        data=SHARED.data,
        network=MLP(depth=4, width=32),
        partition=PartitionSettings(at=[1, "linear2"], before_activation=True),
        labels=SparseLabels(noise=2.0),
        schedule=Sequential(),
        train=TrainSettings(epochs=9, lr=0.25, compile=True),
    )
    assert apply_values(SHARED, {}) == SHARED


def test_whole_numbers_become_what_the_setting_is() -> None:
    noise = apply_values(SHARED, {"labels.noise": 2}).labels.noise
    assert (noise, type(noise)) == (2.0, float)


def test_another_kind_of_network_has_its_own_defaults() -> None:
    assert apply_values(SHARED, {"network": "cnn"}).network == CNN()
    assert apply_values(SHARED, {"network.hidden": [64], "network": "cnn"}).network == CNN(hidden=[64])
    assert apply_values(SHARED, {"network": "mlp"}).network == SHARED.network
    values = {"network": "custom", "network.name": "own_networks:overflowing"}
    assert apply_values(SHARED, values).network == CustomNetwork(name="own_networks:overflowing")


def test_a_networks_options_one_by_one() -> None:
    shared = RunSettings(network=TorchvisionModel(options={"dropout": 0.5, "width_mult": 1.0}))
    network = apply_values(shared, {"network.options.dropout": 0.1}).network
    assert network == TorchvisionModel(options={"dropout": 0.1, "width_mult": 1.0})
    assert shared.network == TorchvisionModel(options={"dropout": 0.5, "width_mult": 1.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.lrr": 1}, "train.lrr is not a setting; did you mean train.lr?"),
        ({"trian.lr": 1}, "trian is not a setting; did you mean train?"),
        ({"colour": "red"}, "colour is not a setting; --help lists them"),
        ({"seed.x": 1}, "seed.x is not a setting; --help lists them"),
        ({"network.options.x": 1}, "network.options.x is not a setting; --help lists them"),
        (
            {"network": "cnn", "network.width": 3},
            "network.width is a setting of network=mlp; add network=mlp, or leave it out",
        ),
        ({"train": 1}, "train is a group of settings; name one of them, as train.<setting>"),
        (
            {"train.epochs": 3},
            "train.epochs cannot be searched: it is how long the last rungs train; give it one value",
        ),
        (
            {"partition.dry_run": True},
            "partition.dry_run cannot be searched: a dry run trains nothing; give it one value",
        ),
        ({"data": "emnist"}, "data cannot be searched: scores on different data cannot be compared; give it one value"),
        (
            {"grouping": "pack"},
            "grouping cannot be searched: which trainings share a process does not make a network better; "
            "give it one value",
        ),
        (
            {"launch.threads": 1},
            "launch.threads cannot be searched: where and how fast a network trains does not make it better; "
            "give it one value",
        ),
        (
            {"report.page": True},
            "report.page cannot be searched: a page does not make a network better; give it one value",
        ),
        ({"seed": "one"}, "seed: 'one' is not an integer"),
        ({"train.batch_size": "many"}, "train.batch_size: 'many' is not an integer"),
        ({"train.batch_size": 1.5}, "train.batch_size: 1.5 is not an integer"),
        ({"train.batch_size": True}, "train.batch_size: True is not an integer"),
        ({"train.lr": None}, "train.lr: None is not a number"),
        ({"train.weight_decay": "much"}, "train.weight_decay: 'much' is not a number"),
        ({"train.compile": 1}, "train.compile: 1 is not true or false"),
        ({"labels": 3}, "labels: 3 is not text"),
        ({"network": ["cnn"]}, "network: ['cnn'] is not text"),
        ({"partition.at": 2}, "partition.at: 2 is not a list of layer numbers and module names"),
        ({"network.widths": [8, "x"]}, "network.widths: [8, 'x'] is not a list of integers"),
        # These are refused by the settings themselves.
        ({"train.lr": -1.0}, "train.lr must be greater than 0, got -1.0"),
        (
            {"labels": "fourier"},
            "labels=fourier is unknown; known: binary, custom, gaussian, hadamard, simplex, sparse, uniform",
        ),
        ({"network": "rnn"}, "network=rnn is unknown; known: cnn, custom, mlp, torchvision"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_values(SHARED, values)
    assert str(caught.value) == message


def test_names_are_checked_without_values() -> None:
    check_names(SHARED, ["train.lr", "seed", "labels", "network.width"])
    check_names(SHARED, ["network", "network.width", "network.hidden"])  # Each is of one of the kinds.
    with pytest.raises(
        UserError, match=r"^network\.hidden is a setting of network=cnn; add network=cnn, or leave it out$"
    ):
        check_names(SHARED, ["network.hidden"])
    with pytest.raises(UserError, match=r"^train\.lrr is not a setting; did you mean train\.lr\?$"):
        check_names(SHARED, ["seed", "train.lrr"])


def test_values_as_people_read_them() -> None:
    values = {"train.lr": 0.0031623, "network.width": 64, "partition.at": [2, "linear4"], "train.weight_decay": None}
    assert (
        format_values(values) == "train.lr=0.00316, network.width=64, partition.at=[2,linear4], train.weight_decay=null"
    )
    assert format_values({"train.compile": True, "labels": "sparse"}) == "train.compile=true, labels=sparse"
