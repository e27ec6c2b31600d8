"""Tests of mistakes in the arguments of scripts: one line on stderr, exit code 1, and no file is overwritten."""

import gzip
from pathlib import Path

import pytest
from scripting import DATA, begun_in, run_script

from partrain.device import device_names

TRAIN = {
    # networks and cuts
    "partition.segments=7": "partition.segments=7 is more than the network's 6 layers. Set it to 6 or less.",
    "partition.segments=0": "partition.segments must be at least 1, got 0",
    "partition.segments=two": "partition.segments: Value 'two' of type 'str' could not be converted to Integer",
    "partition.at=[9]": "partition.at=[9]: 9 is out of range, since the network has 6 layers. Use numbers from 1 to 5.",
    "partition.at=[2,2]": ("partition.at=[2, 2] repeats a cut, which would leave a segment empty. Name each cut once."),
    "partition.at=[4,2]": "partition.at=[4, 2] is not in ascending order. List the cuts from the first layer to the last.",
    "partition.at=[conv9]": (
        "partition.at: the network has no module 'conv9'. Choose one of its layers: "
        "linear0, linear1, linear2, linear3, linear4, linear5."
    ),
    "partition.at=3": "partition.at: Invalid value assigned: int is not a ListConfig, list or tuple.",
    "network.width=0": "network.width must be at least 1, got 0",
    "network=rnn": "network=rnn is unknown; known: cnn, custom, mlp, torchvision",
    "network=custom": "network=custom needs network.name=<module>:<callable>, got none",
    "network=custom network.name=nowhere:build": (
        "network.name=nowhere:build: No module named 'nowhere'; "
        "the module must be importable from the working directory"
    ),
    # labels
    "labels=fourier": (
        "labels=fourier is unknown; known: binary, custom, gaussian, hadamard, simplex, sparse, uniform"
    ),
    "labels=custom": "labels=custom needs labels.name=<module>:<class>, got none",
    "labels=custom labels.name=nowhere:Codes": (
        "labels.name=nowhere:Codes: No module named 'nowhere'; the module must be importable from the working directory"
    ),
    "labels.loss=hinge": "labels.loss=hinge is unknown; known: mse, similarity",
    "labels.noise=-1": "labels.noise must be at least 0, got -1.0",
    "labels=sparse labels.density=0": "labels.density must be in (0, 1], got 0.0",
    "labels=sparse labels.density=1.5": "labels.density must be in (0, 1], got 1.5",
    "labels.scale=0": "labels.scale must be greater than 0, got 0.0",
    "labels=hadamard network.width=32": (
        "labels=hadamard gives at most 31 classes at a boundary of width 32, the data have 47; "
        "cut where the network is wider, or take labels=gaussian"
    ),
    # strategies
    "strategy=ddp": (
        "strategy=ddp is unknown; known: 1f1b, data_parallel, decoupled, end_to_end, fully_sharded, gpipe, "
        "model_parallel, synthetic"
    ),
    "strategy=data_parallel partition.segments=3": (
        "train.batch_size=256 cannot be divided by partition.segments=3 processes; set train.batch_size to 255 or 258"
    ),
    "strategy=fully_sharded partition.segments=257": (
        "train.batch_size=256 cannot be divided by partition.segments=257 processes; set train.batch_size to 257"
    ),
    "strategy=gpipe strategy.microbatches=7": (
        "train.batch_size=256 cannot be divided by strategy.microbatches=7; set train.batch_size to 252 or 259"
    ),
    "strategy=1f1b strategy.microbatches=2 partition.segments=3": (
        "strategy=1f1b needs at least as many microbatches as stages, but strategy.microbatches=2 for "
        "partition.segments=3; set strategy.microbatches=3"
    ),
    "strategy=model_parallel partition.segments=7": (
        "partition.segments=7 is more than the network's 6 layers. Set it to 6 or less."
    ),
    "strategy=1f1b schedule=sequential": (
        "schedule: strategy=1f1b has no schedule, only strategy=synthetic has; leave it out"
    ),
    "strategy=end_to_end partition.segments=3": (
        "partition.segments=3 does not fit strategy=end_to_end, which trains the network uncut; leave one of them out"
    ),
    "strategy=end_to_end partition.at=[2]": (
        "partition.at=[2] does not fit strategy=end_to_end, which trains the network uncut; leave one of them out"
    ),
    "strategy=1f1b train.compile=true": "train.compile=true does not work with strategy=1f1b; leave it out",
    "strategy=gpipe strategy.microbatches=0": "strategy.microbatches must be at least 1, got 0",
    "strategy=gpipe strategy.timeout=0": "strategy.timeout must be greater than 0, got 0.0",
    "report.refresh=-1": "report.refresh must be at least 0, got -1.0",
    # training
    "schedule=backwards": "schedule=backwards is unknown; known: parallel, sequential",
    "schedule.recovery_epochs=-1": "schedule.recovery_epochs must be at least 0, got -1",
    "train.epochs=0": "train.epochs must be at least 1, got 0",
    "train.epochs=many": "train.epochs: Value 'many' of type 'str' could not be converted to Integer",
    "train.batch_size=0": "train.batch_size must be at least 1, got 0",
    "train.batch_size=601": (
        "train.batch_size=601 is larger than the training set of 600 images. Set it to 600 or less."
    ),
    "schedule.recovery_epochs=1 schedule.recovery_batch_size=601": (
        "schedule.recovery_batch_size=601 is larger than the training set of 600 images. Set it to 600 or less."
    ),
    "train.optimizer=lion": "train.optimizer=lion is unknown; known: adam, adamw, sgd",
    "train.precision=fp8": "train.precision=fp8 is unknown; known: auto, bf16, fp32, fp64",
    "train.compile=perhaps": "train.compile: Value 'perhaps' is not a valid bool (type str)",
    # data
    "data=cifar10": "data=cifar10 is unknown; known: emnist, fashion_mnist, glyphs, kmnist, mnist",
    "data.name=mnist": "data.name=mnist does not fit Glyphs, whose name is glyphs; choose another option as data=mnist",
    "data.limit_train=200000": (
        "data.limit_train=200000 is larger than the data set of 112800 images. Leave it out to use them all."
    ),
    # settings
    "train.lrr=1": "train.lrr is not a setting; did you mean train.lr?",
    "trian.lr=1": "trian is not a setting; did you mean train?",
    "colour=red": "colour is not a setting; --help lists them",
    "experiment=nothing": "experiment=nothing is unknown; known: ",
    # where it runs
    "launch.device=cuda:99": "launch.device=cuda:99: there is no such device here; available: cpu",
    "launch.device=tpu": "launch.device=tpu: there is no such device here; available: cpu",
    "launch.threads=0": "launch.threads must be at least 1, got 0",
    "launch.threads=all": "launch.threads=all is not a number. Give a number of 1 or more, or auto.",
    "launch.max_restarts=-1": "launch.max_restarts must be at least 0, got -1",
    "launch=cluster": "launch=cluster is unknown; known: inline, local",
    "launch.name=inline": (
        "launch.name=inline does not fit Local, whose name is local; choose another option as launch=inline"
    ),
    "launch=inline strategy=1f1b": (
        "launch=inline does not work with strategy=1f1b, whose processes train as one; leave it out"
    ),
    # how trainings are grouped
    "grouping=heap": "grouping=heap is unknown; known: alone, pack, shards",
    "grouping.name=pack": (
        "grouping.name=pack does not fit Alone, whose name is alone; choose another option as grouping=pack"
    ),
    "grouping.memory_gib=1": "grouping.memory_gib is a setting of grouping=pack; add grouping=pack, or leave it out",
    "grouping=pack grouping.policy=fifo": (
        "grouping.policy is a setting of grouping=shards; add grouping=shards, or leave it out"
    ),
    "grouping=pack grouping.memory=1": "grouping.memory is not a setting; did you mean grouping.memory_gib?",
    "grouping=pack grouping.memory_gib=0": "grouping.memory_gib must be greater than 0, got 0.0",
    "grouping=shards grouping.budget_gib=0": "grouping.budget_gib must be greater than 0, got 0.0",
    "grouping=shards grouping.policy=best": ("grouping.policy=best is unknown; known: fifo, longest_remaining, random"),
    "grouping=shards grouping.activations=none": "grouping.activations=none is unknown; known: keep, recompute",
    "grouping=shards grouping.spill_to=tape": "grouping.spill_to=tape is unknown; known: disk, memory",
    "grouping=shards grouping.stall_seconds=0": "grouping.stall_seconds must be greater than 0, got 0.0",
    "grouping=shards grouping.budget=1": "grouping.budget is not a setting; did you mean grouping.budget_gib?",
    "grouping=pack strategy=1f1b": (
        "grouping=pack does not work with strategy=1f1b, whose processes train as one; leave it out"
    ),
    "grouping=shards strategy=data_parallel": (
        "grouping=shards does not work with strategy=data_parallel, whose processes train as one; leave it out"
    ),
    "grouping=shards train.compile=true": "train.compile=true does not work with grouping=shards; leave it out",
    # words of older versions
    "network.kind=cnn": "network.kind=cnn is now network=cnn; use that instead",
    "network=custom network.builder=my:build": "network.builder=my:build is now network.name=my:build; use that instead",
    "labels.family=sparse": "labels.family=sparse is now labels=sparse; use that instead",
    "labels=custom labels.family=my:Codes": "labels.family=my:Codes is now labels.name=my:Codes; use that instead",
    "launch.pack=never": "launch.pack=never is now grouping=alone; use that instead",
    "launch.pack=auto": "launch.pack=auto is now grouping=pack; use that instead",
    "launch.pack='auto'": "launch.pack='auto' is now grouping=pack; use that instead",
    "launch.pack=never,auto": "launch.pack=never is now grouping=alone, launch.pack=auto is now grouping=pack; "
    "use that instead",
    "launch=shards,local": "launch=shards is now grouping=shards; use that instead",
    "launch.pack=always": "launch.pack=always is now grouping=pack grouping.trial=false; use that instead",
    "+launch.pack_memory_gib=2.5": "launch.pack_memory_gib=2.5 is now grouping.memory_gib=2.5; use that instead",
    "launch.shards.budget_gib=1": "launch.shards.budget_gib=1 is now grouping.budget_gib=1; use that instead",
    "launch.name=shards": "launch.name=shards is now grouping=shards; use that instead",
    "launch=shards launch.shards.spill_to=disk": (
        "launch=shards is now grouping=shards; use that instead. "
        "launch.shards.spill_to=disk is now grouping.spill_to=disk; use that instead"
    ),
    "strategy=gpipe strategy.port=0": (
        "strategy.port=0 is not needed, since the processes of a strategy meet at any free port; leave it out"
    ),
}

OPEN_ENDED = ("experiment=nothing", "launch.device=cuda:99", "launch.device=tpu")


@pytest.mark.parametrize("overrides", TRAIN)
def test_a_mistake_in_the_settings_is_one_line(overrides: str, tmp_path: Path) -> None:
    limits = [] if "limit_train" in overrides else DATA
    outcome = run_script("train", *limits, *overrides.split(" "), f"hydra.run.dir={tmp_path / 'run'}")
    expected = f"error: {TRAIN[overrides]}"
    assert outcome.error == expected or (overrides in OPEN_ENDED and outcome.error.startswith(expected))
    assert outcome.code == 1
    assert not list(tmp_path.rglob("*.json"))  # nothing was begun that a resume would take for a run


@pytest.mark.parametrize("script", ["search", "compare"])
def test_words_of_older_versions_are_refused_by_every_script_that_trains(script: str, tmp_path: Path) -> None:
    outcome = run_script(script, "launch.pack=auto", f"hydra.run.dir={tmp_path / 'run'}")
    assert (outcome.code, outcome.error) == (1, "error: launch.pack=auto is now grouping=pack; use that instead")
    assert begun_in(tmp_path) == []


def test_an_experiment_with_an_option_of_an_older_version(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "old.yaml").write_text("# @package _global_\ndefaults:\n  - override /launch: shards\n")
    outcome = run_script("train", f"hydra.searchpath=[file://{tmp_path}]", "experiment=old")
    assert (outcome.code, outcome.error) == (1, "error: launch=shards is now grouping=shards; use that instead")


def test_missing_data_folder(tmp_path: Path) -> None:
    outcome = run_script(
        "train", "data=emnist", f"data.root={tmp_path}", "data.download=false", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert outcome.code == 1
    files = ", ".join(
        f"emnist-balanced-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
    )
    assert outcome.error == (
        f"error: data.name=emnist: {tmp_path}/EMNIST/raw lacks {files} (each unpacked, or with .gz). "
        "Set data.download=true, or data.root to a folder that holds EMNIST/raw with them."
    )


def test_truncated_data_file(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 10, *range(10)]))
        images = bytes([0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(range(196)) * 40
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images)[:-20])
    outcome = run_script(
        "train", "data=mnist", f"data.root={tmp_path}", "data.download=false", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {raw}/train-images-idx3-ubyte.gz is truncated: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run=<folder> is needed: the folder of the run to evaluate"),
        (["run={folder}/none"], "run={folder}/none is no run's folder: it has no config.yaml"),
        (["run={folder}"], "run={folder} is no run's folder: it has no config.yaml"),
        (
            ["run={folder}", "data=glyphs", *DATA],
            "run={folder} is no run's folder: it has neither plan.json nor model/model.json",
        ),
        (["run={folder}/none", "data=glyphs", *DATA], "run={folder}/none: there is no such folder"),
        (
            ["run={folder}", "data=cifar10"],
            "data=cifar10 is unknown; known: emnist, fashion_mnist, glyphs, kmnist, mnist",
        ),
        (["run={folder}", "batch=3"], "batch is not a setting; --help lists them"),
        (
            ["run={folder}", "data=glyphs", *DATA, "device=tpu"],
            "device=tpu: there is no such device here; available: {available} or auto",
        ),
    ],
)
def test_a_mistake_in_what_to_evaluate_is_one_line(overrides: list[str], message: str, tmp_path: Path) -> None:
    outcome = run_script("evaluate", *(override.format(folder=tmp_path) for override in overrides))
    assert outcome.code == 1
    assert outcome.error == "error: " + message.format(folder=tmp_path, available=", ".join(device_names()))


@pytest.mark.parametrize("there", [[], ["config.yaml"], ["plan.json"]])
def test_resuming_what_is_no_run(there: list[str], tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).write_text("{}")
    outcome = run_script("train", f"resume={tmp_path}")
    assert outcome.code == 1
    assert outcome.error == f"error: resume={tmp_path} is no run's folder: it needs config.yaml and plan.json"
    assert begun_in(tmp_path) == there


PARTS = (
    "expected the settings data, grouping, labels, launch, network, partition, report, schedule, seed, strategy, train"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: [", "(while parsing a flow node"),
        ("seed: 1", PARTS),
        ("", "it holds no settings"),
    ],
)
def test_resuming_a_run_whose_settings_are_damaged(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(text)
    outcome = run_script("train", f"resume={tmp_path}")
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {tmp_path}/config.yaml is damaged")
    assert reason in outcome.error
