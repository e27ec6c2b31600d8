"""Tests that every file in conf/ composes and makes settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from scripting import ROOT

from partrain.boundaries.labels import UniformLabels
from partrain.cli.config import register_schemas, run_settings
from partrain.launch.settings import GroupingSettings
from partrain.packs.settings import Pack
from partrain.settings import GROUPS, Alone, RunSettings

CONF = ROOT / "conf"
NEEDED = {
    "network=custom": ["network.name=own_networks:overflowing"],
    "labels=custom": ["labels.name=own_networks:Thirds"],
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


@pytest.mark.parametrize("option", [f"{g}={o}" for g in GROUPS for o in options(g) if o != "end_to_end"])
def test_every_option_of_every_group_makes_settings(option: str) -> None:
    group, _, name = option.partition("=")
    words = NEEDED.get(option, [])
    part = getattr(settings(option, *words), group)
    assert part == GROUPS[group].classes[name](**dict(word.partition(".")[2].split("=") for word in words))


@pytest.mark.parametrize(("script", "grouping"), [("train", Alone()), ("search", Pack()), ("compare", Alone())])
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
    assert (changed.labels.name, changed.train.epochs, changed.train.lr) == ("sparse", 3, 0.25)


def test_settings_that_scripts_rely_on() -> None:
    changed = settings(
        *("seed=3", "data=emnist", "data.split=letters", "data.root=/r", "data.download=false", "network=cnn"),
        *("partition.segments=3", "partition.at=[1,linear0]", "partition.dry_run=true"),
        *("labels=uniform", "labels.scale=2", "labels.noise=0", "labels.loss=mse"),
        *("schedule=sequential", "schedule.recovery_epochs=2"),
        *("train.epochs=4", "train.batch_size=8", "train.lr=0.1", "train.weight_decay=0", "train.optimizer=sgd"),
        *("train.precision=fp32", "train.compile=true", "train.early_stop=0"),
        *("launch.device=cpu", "launch.threads=2", "launch.max_restarts=0"),
    )
    assert (changed.data.split, changed.data.root, changed.data.download) == ("letters", "/r", False)
    assert changed.partition.at == [1, "linear0"]
    assert changed.labels == UniformLabels(scale=2, noise=0, loss="mse")
    assert (changed.launch.threads, changed.launch.max_restarts, changed.seed) == (2, 0, 3)
    assert (changed.schedule.name, changed.schedule.recovery_epochs) == ("sequential", 2)
    assert (changed.train.optimizer, changed.train.weight_decay, changed.train.compile) == ("sgd", 0, True)
