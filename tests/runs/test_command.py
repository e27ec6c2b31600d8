"""Tests that the command on a run's page makes the settings that the run had."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from scripting import ROOT

from partrain import RunSettings
from partrain.boundaries.labels import LabelSettings
from partrain.cli.config import register_schemas, run_settings
from partrain.data import DataSettings
from partrain.launch.settings import LaunchSettings
from partrain.networks import CNNSettings, CustomSettings, MLPSettings, TorchvisionSettings
from partrain.packs.settings import PackSettings
from partrain.partition.plan import PartitionSettings
from partrain.runs.command import train_command
from partrain.settings import ScheduleSettings
from partrain.shards.settings import ShardSettings
from partrain.strategies.settings import StrategySettings
from partrain.training.optimization import TrainSettings

SETTINGS = [
    RunSettings(),
    RunSettings(seed=3, partition=PartitionSettings(at=[2, "linear4"]), network=MLPSettings(widths=[64, 32])),
    RunSettings(data=DataSettings(name="emnist", root="/a folder, with 'all'", download=False)),
    RunSettings(network=CNNSettings(), labels=LabelSettings(family="sparse", density=0.2, noise=0.0)),
    RunSettings(network=TorchvisionSettings(name="vgg11_bn", options={"dropout": 0.2})),
    RunSettings(network=CustomSettings(builder="own_networks:overflowing")),
    RunSettings(labels=LabelSettings(family="own_networks:Thirds"), launch=LaunchSettings(threads=1)),
    RunSettings(schedule=ScheduleSettings(name="sequential", last_input="stored", recovery_epochs=1)),
    RunSettings(schedule=ScheduleSettings(name="sequential", last_input="synthetic")),
    RunSettings(strategy=StrategySettings(name="gpipe", microbatches=8)),
    RunSettings(grouping=ShardSettings(budget_gib=0.5, double_buffer=False)),
    RunSettings(grouping=PackSettings(), launch=LaunchSettings(name="inline")),
    RunSettings(grouping=PackSettings(trial=False, memory_gib=2.0)),
    RunSettings(train=TrainSettings(lr=3e-4, epochs=20, compile=True, weight_decay=0.5)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_it_makes_the_same_settings(settings: RunSettings) -> None:
    words = shlex.split(train_command(settings.to_json()))
    assert words[:2] == ["python", "experiments/train.py"]
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert run_settings(compose("train", words[2:])) == settings


def test_it_says_only_what_is_not_the_default() -> None:
    assert train_command(RunSettings().to_json()) == "python experiments/train.py"
    assert train_command(RunSettings(seed=1).to_json()) == "python experiments/train.py seed=1"
    packed = RunSettings(grouping=PackSettings(memory_gib=2.0))
    assert train_command(packed.to_json()) == "python experiments/train.py grouping=pack grouping.memory_gib=2.0"


def test_the_command_of_a_run_of_an_older_version_has_todays_words() -> None:
    old = RunSettings().to_json() | {"launch": {"name": "shards", "device": "cpu", "shards": {"spill_to": "disk"}}}
    del old["grouping"]
    assert train_command(old) == (
        "python experiments/train.py launch.device=cpu grouping=shards grouping.spill_to=disk"
    )
