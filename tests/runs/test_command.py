"""Tests that the command on a run's page makes the settings that the run had."""

import shlex
import subprocess

import pytest
from hydra import compose, initialize_config_dir
from scripting import ROOT

from partrain import RunSettings
from partrain.boundaries.labels import CustomLabels, SparseLabels
from partrain.cli.config import hydra_words, register_schemas, run_settings
from partrain.data.settings import EMNIST
from partrain.launch.settings import Inline, Local
from partrain.networks import CNN, MLP, CustomNetwork, TorchvisionModel
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.runs.command import train_command
from partrain.settings import Sequential
from partrain.shards.settings import Shards
from partrain.strategies.settings import GPipe
from partrain.training.optimization import TrainSettings

SETTINGS = [
    RunSettings(),
    RunSettings(seed=3, partition=PartitionSettings(at=[2, "linear4"]), network=MLP(widths=[64, 32])),
    RunSettings(data=EMNIST(root="/a folder, with 'all'", download=False)),
    RunSettings(network=CNN(), labels=SparseLabels(density=0.2, noise=0.0)),
    RunSettings(network=TorchvisionModel(name="vgg11_bn", options={"dropout": 0.2})),
    RunSettings(network=CustomNetwork(name="own_networks:overflowing")),
    RunSettings(labels=CustomLabels(name="own_networks:Thirds"), launch=Local(threads=1)),
    RunSettings(schedule=Sequential(last_input="stored", recovery_epochs=1)),
    RunSettings(schedule=Sequential(last_input="synthetic")),
    RunSettings(strategy=GPipe(microbatches=8)),
    RunSettings(grouping=Shards(budget_gib=0.5, double_buffer=False)),
    RunSettings(grouping=Pack(), launch=Inline()),
    RunSettings(grouping=Pack(trial=False, memory_gib=2.0)),
    RunSettings(train=TrainSettings(lr=3e-4, epochs=20, compile=True, weight_decay=0.5)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_it_makes_the_same_settings(settings: RunSettings) -> None:
    words = shlex.split(train_command(settings))
    assert words[:2] == ["partrain", "train"]
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert run_settings(compose("train", hydra_words(words[2:]))) == settings


def test_it_says_only_what_is_not_the_default() -> None:
    assert train_command(RunSettings()) == "partrain train"
    assert train_command(RunSettings(seed=1)) == "partrain train seed=1"
    packed = RunSettings(grouping=Pack(memory_gib=2.0))
    assert train_command(packed) == "partrain train grouping=pack grouping.memory_gib=2.0"


HARD = [
    *(
        "a b",
        "a=b",
        "a,b",
        "é",
        "(1)",
        "[red]",
        "#1",
        "~x",
        "it's",
        'a "b"',
        "a\\",
        "\\'",
        "${seed}",
        "a\\${b}",
        "{a: 1}",
    ),
    *("1", "1e5", "-1", "0x10", "1_000", "null", "True", "inf", ".5", "", " ", "@", "|", ":smile:", "日本", "$HOME"),
    *("`ls`", "*", "?", "!"),
]


@pytest.mark.parametrize("text", HARD)
def test_a_word_holds_any_text_through_the_shell_and_hydra(text: str) -> None:
    settings = RunSettings(
        data=EMNIST(root=text), network=CustomNetwork(name="a:b", options={"text": text, "list": [text]})
    )
    line = train_command(settings)
    words = subprocess.run(["sh", "-c", f'printf "%s\\0" {line}'], capture_output=True, check=True).stdout.decode()
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        made = run_settings(compose("train", hydra_words(words.split("\0")[2:-1])))
    assert made == settings
