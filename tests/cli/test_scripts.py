"""Tests of experiments/train.py as a user runs it: the files that it writes, and how a run is resumed."""

import csv
import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scripting import DATA, TINY, Outcome, contents, model_bytes, run_script

import partrain
from partrain.boundaries.labels import SimplexLabels
from partrain.launch.processes import ProcessExecutor
from partrain.launch.settings import GroupingSettings, Local
from partrain.networks import MLP
from partrain.packs.settings import Pack
from partrain.settings import Alone
from partrain.shards.settings import Shards
from partrain.storage import checkpoint
from partrain.training.job import Job

LABELS, NETWORK = asdict(SimplexLabels()), asdict(MLP(depth=3, width=32))
CHECKPOINT = "segments/{}/checkpoint.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Return the folder of a finished run, and the script's output."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    outcome = run_script("train", *TINY, f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture
def copied(finished: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """Return the folder of a copy of the run, which tests may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a process is started."""

    def refuse(executor: ProcessExecutor, job: Job) -> None:
        raise AssertionError(f"{job.name} was started")

    monkeypatch.setattr(ProcessExecutor, "start", refuse)


def results(folder: Path) -> dict[str, Any]:
    return checkpoint.read_json(folder / "results.json")


def test_the_run_folder(finished: tuple[Path, Outcome]) -> None:
    folder, _ = finished
    expected = {"config.yaml", "plan.json", "results.json", "report.html", "evaluation.json"}
    expected |= {"confusion.png", "curves.png"}
    assert {file.name for file in folder.iterdir()} == expected | {"segments", "model", "lock", ".hydra"}
    assert {file.name for file in (folder / "model").iterdir()} == {"model.json", "model.safetensors"}
    for index in (0, 1):
        files = {file.name for file in (folder / f"segments/{index}").iterdir()}
        assert {"task.json", "checkpoint.safetensors", "metrics.csv", "progress.json", "log.txt"} <= files
        assert not [name for name in files if name.startswith(".")]  # nothing half-written
        with (folder / f"segments/{index}/metrics.csv").open() as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert not [file for file in folder.rglob("*") if file.suffix in (".pt", ".pth", ".pkl")]


def test_results_agree_with_the_rest_of_the_folder(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    found = results(folder)
    plan, evaluation = (checkpoint.read_json(folder / name) for name in ("plan.json", "evaluation.json"))
    assert found["test_accuracy"] == evaluation["top1"] == found["segments"][1]["decode_accuracy"]
    assert [s["decode_accuracy"] for s in found["segments"]] == evaluation["boundaries"]
    assert [s["parameters"] for s in found["segments"]] == [s["parameters"] for s in plan["segments"]]
    weights, _ = checkpoint.load(folder / "model" / "model.safetensors")
    assert sum(s["parameters"] for s in found["segments"]) == sum(tensor.numel() for tensor in weights.values())
    for segment in found["segments"]:
        assert segment["samples_per_second"] == pytest.approx(2 * 600 / segment["train_seconds"])
        assert 0 < segment["train_seconds"] < found["train_seconds"]
        assert segment["peak_memory_bytes"] > 0
        assert (segment["epochs"], segment["device"], segment["stopped_early"]) == (2, "cpu", False)
    assert found["traffic_bytes"] == 0
    assert found["data"] == {
        "name": "glyphs",
        "split": None,
        "train_images": 600,
        "test_images": 200,
        "verified": None,
        "note": "",
    }
    assert (found["seed"], found["launch"]["threads"], found["test_accuracy_before_recovery"]) == (0, 1, None)
    assert (found["network"]["name"], found["network"]["width"]) == ("mlp", 32)
    assert (found["labels"]["name"], found["schedule"]["name"]) == ("simplex", "parallel")
    assert found["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert f"Test accuracy {found['test_accuracy']:.2%}" in outcome.out


def test_weights_are_those_of_the_segments(finished: tuple[Path, Outcome]) -> None:
    folder, _ = finished
    stitched = partrain.load(folder).state_dict()
    for index in (0, 1):
        tensors, _ = checkpoint.load(folder / CHECKPOINT.format(index))
        for name, tensor in tensors.items():
            assert torch.equal(stitched.pop(name.removeprefix("model.")), tensor)
    assert not stitched


def test_the_configuration_is_the_commands(finished: tuple[Path, Outcome]) -> None:
    config = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert config["data"]["limit_train"] == 600
    assert (config["network"]["depth"], config["train"]["batch_size"], config["launch"]["threads"]) == (3, 50, 1)
    assert config["partition"] == {
        "segments": None,
        "at": None,
        "balance": "layers",
        "before_activation": False,
        "dry_run": False,
    }


def test_plain_lines_where_there_is_no_terminal(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    lines = outcome.out.splitlines()
    assert lines[0].startswith("Plan: mlp, 2 segments")
    assert lines[-2:] == [f"Run: {folder}", f"Page: {folder}/report.html"]
    for index in (0, 1):
        assert any(line.startswith(f"segment {index}: epoch 2  loss ") for line in lines)
    assert "\x1b" not in outcome.out
    assert all(line.startswith("Preparing ") for line in outcome.err.splitlines())


@pytest.mark.usefixtures("no_process")
def test_a_finished_run_is_not_trained_again(finished: tuple[Path, Outcome], copied: Path) -> None:
    outcome = run_script("train", f"resume={copied}", "launch.threads=2", "launch.max_restarts=0")
    assert outcome.code == 0, outcome.err
    assert model_bytes(copied) == model_bytes(finished[0])
    again, before = results(copied), results(finished[0])
    assert again.pop("train_seconds") == pytest.approx(before.pop("train_seconds"), abs=0.1)
    assert again.pop("launch")["threads"] == 2
    del before["launch"]
    assert again == before


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("train.lr=0.5", "train.lr=0.001"),
        ("seed=1", "seed=0"),
        ("partition.segments=3", "partition.segments=None"),
        ("data.limit_test=100", "data.limit_test=200"),
        ("labels=sparse", f"labels={str(LABELS)[:57]}..."),
        ("experiment=k6_sequential", f"network={str(NETWORK)[:57]}..."),
    ],
)
def test_resuming_with_another_setting_is_refused(copied: Path, override: str, found: str) -> None:
    before = contents(copied)
    outcome = run_script("train", f"resume={copied}", *(DATA if "experiment" in override else []), override)
    assert outcome.code == 1
    assert outcome.error == (
        f"error: resume={copied}: it has {found}, but the command line has {override}; "
        "leave it out, or start anew in a new folder"
    )
    assert contents(copied) == before


@pytest.mark.usefixtures("no_process")
def test_resuming_with_the_runs_own_settings(copied: Path) -> None:
    assert run_script("train", f"resume={copied}", *TINY, "labels=simplex", "network=mlp").code == 0


@pytest.mark.usefixtures("no_process")
def test_a_resumed_run_has_its_own_grouping_unless_the_command_sets_another(copied: Path) -> None:
    path = copied / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    packed = {"name": "pack", "trial": False, "memory_gib": 2.0}
    path.write_text(yaml.safe_dump(stored | {"grouping": packed}))
    assert run_script("train", f"resume={copied}", "launch.threads=2").code == 0
    resumed = yaml.safe_load(path.read_text())
    assert resumed["grouping"] == results(copied)["grouping"] == packed
    assert resumed["launch"] == asdict(Local(threads=2))

    assert run_script("train", f"resume={copied}", "grouping=shards", "grouping.budget_gib=0.5").code == 0
    assert yaml.safe_load(path.read_text())["grouping"] == asdict(Shards(budget_gib=0.5))


@pytest.mark.parametrize(("group", "known"), [("grouping", "alone, pack, shards"), ("network", "cnn, custom, mlp, ")])
def test_a_run_with_an_option_that_there_is_not_is_not_resumed(copied: Path, group: str, known: str) -> None:
    path = copied / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    stored[group] |= {"name": "heap"}
    path.write_text(yaml.safe_dump(stored))
    outcome = run_script("train", f"resume={copied}")
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {path}: {group}=heap is unknown; known: {known}")


def _of_format_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Return what is different in settings of format 1: names, and options with the settings of all others."""
    return {
        "network": {"kind": "mlp"} | {name: value for name, value in stored["network"].items() if name != "name"},
        "labels": {"family": "simplex", "density": 0.1, "scale": None, "loss": "similarity", "noise": None},
        "train": stored["train"] | {"momentum": 0.9},
        "schedule": stored["schedule"] | {"last_input": "stored"},
        "strategy": {"name": "synthetic", "microbatches": 4, "timeout": 120.0},
        "data": stored["data"] | {"split": None, "root": None, "download": True},
    }


@pytest.mark.usefixtures("no_process")
def test_a_run_of_format_1_is_resumed(finished: tuple[Path, Outcome], copied: Path) -> None:
    path = copied / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    written = path.read_text()
    old = stored | _of_format_1(stored)
    del old["format"], old["data"]["validation"]
    path.write_text(yaml.safe_dump(old))
    plan = json.loads((copied / "plan.json").read_text())
    del plan["format"]
    plan["network"] = old["network"]
    (copied / "plan.json").write_text(json.dumps(plan))
    for task_file in copied.glob("segments/*/task.json"):
        task = json.loads(task_file.read_text())
        del task["format"], task["validation"]
        task |= {name: old[name] for name in ("network", "labels")} | {"train": task["train"] | {"momentum": 0.9}}
        task_file.write_text(json.dumps(task))
    assert run_script("train", f"resume={copied}", "launch.device=cpu", "launch.threads=1").code == 0
    assert path.read_text() == written
    assert model_bytes(copied) == model_bytes(finished[0])


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("file", ["config.yaml", "plan.json", "segments/0/task.json"])
def test_a_file_of_a_later_format_is_refused_by_its_number(copied: Path, file: str) -> None:
    path = copied / file
    path.write_text(re.sub(r'(^format|"format"): 2', r"\1: 3", path.read_text()))
    outcome = run_script("train", f"resume={copied}")
    assert (outcome.code, outcome.error) == (
        1,
        f"error: {path} has format 3, and this version of partrain reads formats 1 and 2; "
        "continue with the version that wrote it",
    )


OLD_LAUNCH = {"name": "local", "device": "cpu", "threads": 1, "max_restarts": 3, "pack": "never"}
OLD_LAUNCH |= {"pack_memory_gib": None, "shards": {"budget_gib": None, "spill_to": "memory"}}


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("launch", "grouping"),
    [
        ({}, Alone()),
        ({"pack": "auto"}, Pack()),
        ({"pack": "always", "pack_memory_gib": 2.0}, Pack(trial=False, memory_gib=2.0)),
        ({"name": "shards", "shards": {"budget_gib": 0.5}}, Shards(budget_gib=0.5)),
    ],
)
def test_a_run_that_began_before_grouping_was_a_setting_is_resumed(
    finished: tuple[Path, Outcome], copied: Path, launch: dict[str, Any], grouping: GroupingSettings
) -> None:
    path = copied / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    stored |= _of_format_1(stored)
    del stored["grouping"], stored["format"]
    stored["launch"] = OLD_LAUNCH | launch
    stored["strategy"]["port"] = 29500
    path.write_text(yaml.safe_dump(stored))
    outcome = run_script("train", f"resume={copied}", "strategy=synthetic", "launch.device=cpu")
    assert outcome.code == 0, outcome.err
    resumed = yaml.safe_load(path.read_text())
    assert resumed["grouping"] == asdict(grouping)
    assert resumed["launch"] == asdict(Local(device="cpu"))
    assert "port" not in resumed["strategy"]
    assert model_bytes(copied) == model_bytes(finished[0])


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("override", "file", "what"),
    [
        ("network.width=16", "plan.json", "another plan than the settings make"),
        ("train.lr=0.5", "segments/0/task.json", "another plan or other settings"),
        ("labels=sparse", "segments/0/task.json", "another plan or other settings"),
    ],
)
def test_the_folder_of_another_run_is_left_as_it_is(copied: Path, override: str, file: str, what: str) -> None:
    before = contents(copied)
    outcome = run_script("train", *TINY, override, f"hydra.run.dir={copied}")
    assert outcome.code == 1
    assert outcome.error == f"error: {copied / file} is of {what}; start a new run in a new folder"
    assert contents(copied) == before


def test_half_a_run_goes_on_where_it_was(finished: tuple[Path, Outcome], copied: Path) -> None:
    shutil.rmtree(copied / "model")
    shutil.rmtree(copied / "segments/1")
    (copied / "results.json").unlink()
    outcome = run_script("evaluate", f"run={copied}")
    assert outcome.code == 1
    assert (
        outcome.error == f"error: run={copied}: the run is not finished, it has no model/; go on with resume={copied}"
    )
    kept = contents(copied / "segments/0")

    assert run_script("train", f"resume={copied}").code == 0
    assert contents(copied / "segments/0") == kept
    assert model_bytes(copied) == model_bytes(finished[0])


def damage(path: Path, how: str) -> None:
    whole = bytearray(path.read_bytes())
    if how == "cut short":
        whole = whole[:-100]
    else:
        place = -100 if how == "byte of a weight" else whole.index(b"digest") + 12
        whole[place] ^= 1
    path.write_bytes(whole)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("how", ["cut short", "byte of a weight", "byte of the header"])
def test_a_damaged_checkpoint_is_named(copied: Path, how: str) -> None:
    path = copied / CHECKPOINT.format(1)
    damage(path, how)
    outcome = run_script("train", f"resume={copied}")
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {path} is damaged (")
    assert outcome.error.endswith("); delete it and resume the run")


@pytest.mark.parametrize("how", ["cut short", "byte of a weight", "byte of the header"])
def test_a_damaged_model_is_named(copied: Path, how: str) -> None:
    path = copied / "model" / "model.safetensors"
    damage(path, how)
    outcome = run_script("evaluate", f"run={copied}")
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {path} is damaged (")


def test_a_model_whose_segment_is_missing(copied: Path) -> None:
    path = copied / "model" / "model.safetensors"
    tensors, _ = checkpoint.load(copied / CHECKPOINT.format(0))
    checkpoint.save(path, {name.removeprefix("model."): tensor for name, tensor in tensors.items()}, {})
    outcome = run_script("evaluate", f"run={copied}")
    assert outcome.code == 1
    assert outcome.error == f"error: {path} lacks linear2.weight (and 1 more): a segment is missing from it"


@pytest.mark.usefixtures("no_process")
def test_a_dry_run_shows_the_plan_and_stops(tmp_path: Path) -> None:
    outcome = run_script("train", *TINY, "partition.segments=3", "partition.dry_run=true", f"hydra.run.dir={tmp_path}")
    assert outcome.code == 0
    assert outcome.out.startswith("Plan: mlp, 3 segments")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".hydra", "config.yaml", "plan.json"]
    assert len(json.loads((tmp_path / "plan.json").read_text())["segments"]) == 3


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_shows_how_to_use_it_and_every_setting(name: str) -> None:
    outcome = run_script(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"partrain {name}" in outcome.out
    assert "data: emnist, fashion_mnist, glyphs, kmnist, mnist" in outcome.out
    if name == "train":
        for group in ("network: cnn, custom, mlp, torchvision", "schedule: parallel, sequential", "experiment: "):
            assert group in outcome.out
        config = yaml.safe_load(outcome.out.partition("their values:")[2].partition("Every setting above")[0])
        assert set(config["train"]) >= {"epochs", "batch_size", "lr", "weight_decay", "optimizer", "precision"}


def test_experiments_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "quick.yaml").write_text("# @package _global_\npartition:\n  segments: 3\n")
    arguments = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=quick", "partition.dry_run=true"]
    outcome = run_script("train", *TINY, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Plan: mlp, 3 segments")


def test_classes_of_ones_own_are_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks_here.py").write_text(
        "from torch import nn\n\n\n"
        "def build(width: int) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.GELU(), nn.Linear(width, 47))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    arguments = ["network=custom", "network.name=my_networks_here:build", "partition.dry_run=true", *DATA]
    outcome = run_script("train", *arguments, "network.options.width=24")
    assert outcome.code == 0, outcome.err
    assert "18.84 k" in outcome.out  # 784 × 24 weights and 24 biases
