"""The package as a whole: its public names, and what a training process imports."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripting import ROOT, small_settings

import partrain
from partrain.data import Dataset
from partrain.storage.run_folder import LOG

NAMES = """
import json, types
import partrain
found = {name: type(getattr(partrain, name)).__name__ for name in partrain.__all__}
again = {name: type(getattr(partrain, name)).__name__ for name in partrain.__all__}
assert not any(isinstance(getattr(partrain, name), types.ModuleType) for name in partrain.__all__)
assert dir(partrain) == sorted(partrain.__all__)
print(json.dumps([found, again]))
"""

# what a training process has no use for, unless it is its engine's
ELSEWHERE = ("report", "tuning", "comparison", "shards", "packs", "strategies", "runs", "cli")
LIBRARIES = ("hydra", "omegaconf", "plotly", "matplotlib", "jinja2", "torchvision")

TELLING = """
import atexit, json, os, sys
from torch import nn


def tell() -> None:
    with open(f"{os.environ['TOLD']}/{os.getpid()}.json", "w") as file:
        json.dump({"modules": sorted(sys.modules), "argv": sys.orig_argv[1:3]}, file)


def build() -> nn.Module:
    if sys.orig_argv[1:3] == ["-m", "partrain.launch"]:  # a training process, not its launcher
        atexit.register(tell)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), *hidden, nn.Linear(8, 5))
"""


def fresh(program: str, **environment: str) -> str:
    """What a fresh process prints that runs `program`."""
    own = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True)
    return done.stdout


def test_every_public_name_is_there_and_is_no_module() -> None:
    """Twice, since a module that is imported meanwhile would take the place of a name."""
    found, again = json.loads(fresh(NAMES))
    assert found == again
    assert set(found) == set(partrain.__all__)
    assert {"run", "search", "compare", "evaluate", "load", "unify", "run_together"} <= set(found)


def test_no_public_name_is_that_of_a_module_directly_below() -> None:
    package = Path(partrain.__file__).parent
    below = {path.stem for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert below & set(partrain.__all__) == set()
    assert {"runs", "tuning", "comparison", "settings"} <= below


def test_importing_the_package_imports_nothing_else() -> None:
    loaded = fresh("import sys, partrain; print([m for m in sys.modules if m == 'torch' or m.startswith('partrain.')])")
    assert loaded == "[]\n"


@pytest.mark.parametrize(
    ("engine", "segments", "count", "what"),
    [
        ("partrain.training.segment", 2, 2, {}),
        ("partrain.packs.pack", 4, 1, {"grouping": partrain.PackSettings(trial=False)}),
        ("partrain.strategies.engine", 2, 2, {"strategy": partrain.StrategySettings(name="data_parallel")}),
    ],
)
def test_a_training_process_imports_what_it_uses(
    small: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    segments: int,
    count: int,
    what: dict[str, Any],
) -> None:
    """Looked at in each process itself, by a network that tells at its end what is imported."""
    (tmp_path / "telling_network.py").write_text(TELLING)
    monkeypatch.syspath_prepend(tmp_path)
    (told := tmp_path / "told").mkdir()
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    settings = small_settings(
        network=partrain.CustomSettings(builder="telling_network:build"),
        train=partrain.TrainSettings(epochs=1, batch_size=64, precision="fp32"),
        partition=partrain.PartitionSettings(segments=segments),
        launch=partrain.LaunchSettings(processes="fresh"),
        **what,
    )
    partrain.run(settings, tmp_path / "run", dataset=small, show_progress=False)
    assert_silent(list((tmp_path / "run").rglob(LOG)))
    processes = [json.loads(path.read_text()) for path in told.iterdir()]
    imported = [
        process["modules"]
        for process in processes
        if process["argv"] == ["-m", "partrain.launch"]
        and engine in process["modules"]
        and "partrain.packs.trial" not in process["modules"]
    ]
    assert len(imported) == count
    no_use = [part for part in ELSEWHERE if part != engine.split(".")[1]]
    for modules in imported:
        assert [m for m in modules if m.split(".")[:2] in [["partrain", part] for part in no_use]] == []
        assert [m for m in modules if m.split(".")[0] in LIBRARIES] == []
        assert engine in modules


def test_no_process_of_shards_says_a_word_where_warnings_are_errors(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    settings = small_settings(
        train=partrain.TrainSettings(epochs=1, batch_size=64, precision="fp32"),
        partition=partrain.PartitionSettings(segments=1),
        grouping=partrain.ShardSettings(),
        launch=partrain.LaunchSettings(device="cpu", threads=1, processes="fresh"),
    )
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    logs = [*tmp_path.rglob(LOG), *tmp_path.glob("shards/*/workers/*.txt")]
    assert len(logs) == 2
    assert_silent(logs)


def assert_silent(logs: list[Path]) -> None:
    """Check that processes have printed nothing.

    Python warns of a module that exists twice, as it runs as the main one and is imported too.
    """
    assert [log.read_text() for log in logs] == [""] * len(logs)
