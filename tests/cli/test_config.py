"""Tests that every file in conf/ composes and makes settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from scripting import ROOT

from partrain.boundaries.labels import LabelSettings
from partrain.cli.config import register_schemas, run_settings
from partrain.data import DataSettings
from partrain.launch.settings import GroupingSettings
from partrain.networks import NETWORKS
from partrain.packs.settings import PackSettings
from partrain.settings import GROUPINGS, AloneSettings, RunSettings

CONF = ROOT / "conf"
NEEDED = {
    "network=custom": ["network.builder=own_networks:overflowing"],
    "labels=custom": ["labels.family=own_networks:Thirds"],
}


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def settings(*overrides: str) -> RunSettings:
    return run_settings(compose("train", list(overrides)))


def test_the_configuration_as_it_stands_is_the_librarys_own_defaults() -> None:
    assert settings() == RunSettings()


@pytest.mark.parametrize(
    "option", [f"{g}={o}" for g in ("data", "network", "labels", "schedule", "grouping", "launch") for o in options(g)]
)
def test_every_option_of_every_group_makes_settings(option: str) -> None:
    group, _, name = option.partition("=")
    part = getattr(settings(option, *NEEDED.get(option, [])), group)
    if group == "network":
        assert type(part) is NETWORKS[name]
        assert part.kind == name
    elif group == "grouping":
        assert part == GROUPINGS[name](name=name)
    elif option == "labels=custom":
        assert part.family == "own_networks:Thirds"
    elif group == "labels":
        assert part == LabelSettings(family=name)
    elif group == "data":
        assert part == DataSettings(name=name)
    else:
        assert part.name == name


@pytest.mark.parametrize(
    ("script", "grouping"), [("train", AloneSettings()), ("search", PackSettings()), ("compare", AloneSettings())]
)
def test_only_searches_pack_by_default(script: str, grouping: GroupingSettings) -> None:
    assert run_settings(compose(script)).grouping == grouping


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_and_says_how_to_run_it(name: str) -> None:
    settings(f"experiment={name}")
    assert f"experiment={name}" in (CONF / "experiment" / f"{name}.yaml").read_text()


def test_an_experiment_changes_settings_and_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /labels: sparse\ntrain:\n  epochs: 3\n  lr: 0.5\n"
    )
    changed = settings(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "train.lr=0.25")
    assert (changed.labels.family, changed.train.epochs, changed.train.lr) == ("sparse", 3, 0.25)


def test_settings_that_scripts_rely_on() -> None:
    changed = settings(
        *("seed=3", "data=emnist", "data.split=letters", "data.root=/r", "data.download=false", "network=cnn"),
        *("partition.segments=3", "partition.at=[1,linear0]", "partition.dry_run=true"),
        *("labels=uniform", "labels.scale=2", "labels.density=0.2", "labels.noise=0", "labels.loss=mse"),
        *("schedule=sequential", "schedule.recovery_epochs=2"),
        *("train.epochs=4", "train.batch_size=8", "train.lr=0.1", "train.weight_decay=0", "train.optimizer=sgd"),
        *("train.precision=fp32", "train.compile=true", "train.early_stop=0"),
        *("launch.device=cpu", "launch.threads=2", "launch.max_restarts=0"),
    )
    assert (changed.data.split, changed.data.root, changed.data.download) == ("letters", "/r", False)
    assert changed.partition.at == [1, "linear0"]
    assert changed.labels == LabelSettings(family="uniform", scale=2, density=0.2, noise=0, loss="mse")
    assert (changed.launch.threads, changed.launch.max_restarts, changed.seed) == (2, 0, 3)
    assert (changed.schedule.name, changed.schedule.recovery_epochs) == ("sequential", 2)
    assert (changed.train.optimizer, changed.train.weight_decay, changed.train.compile) == ("sgd", 0, True)
